"""What a run compares with the configuration that it was begun with."""

import copy

from mnemonics_jax import config as config_lib
from mnemonics_jax.experiment import run_config


def test_a_run_of_a_version_with_fewer_fields_goes_on():
    content = config_lib.to_json(config_lib.default_config())
    older = copy.deepcopy(content)
    for name in ('quality', 'subsampling', 'bytes_per_class'):
        del older['exemplars'][name]
    del older['train']['milestones']
    assert len(run_config.differences(content, older)) == 4
    assert run_config.differences(content, run_config.completed(older)) == []
    older['exemplars']['quality'] = 40
    found = run_config.differences(content, run_config.completed(older))
    assert found == ['exemplars.quality: 50 here, 40 there']
