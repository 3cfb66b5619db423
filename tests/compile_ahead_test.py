"""Programs of later stages, compiled while the first one runs."""

import threading
import types

import jax
import pytest

from mnemonics_jax import experiment
from mnemonics_jax.experiment import compile_ahead
from mnemonics_jax.experiment.compile_ahead import CompileAhead
from mnemonics_jax.experiment.step_shapes import Program

STEPS = ['train', 'learn', 'adjust', 'count']


class AtOnce(threading.Thread):
    """A thread that is done before the one that starts it goes on."""

    def start(self):
        super().start()
        self.join()


class Function:
    """Stands for a jitted function; `compile` is what compiling it does."""

    def __init__(self, function):
        self.compile = function

    def lower(self):
        return self


def listed(*functions):
    names = (Function(function) for function in functions)
    return lambda stage: [Program('', each, (), '', 1, 1) for each in names]


def test_stages_after_the_first_compile_nothing_themselves(
    tiny_config, one_device, tmp_path, monkeypatch
):
    # Not the module's own attribute: others start threads, too.
    own = types.SimpleNamespace(**{**vars(threading), 'Thread': AtOnce})
    monkeypatch.setattr(compile_ahead, 'threading', own)
    by_thread = {True: [], False: []}

    def listen(event, seconds, fun_name='', **more):
        name = fun_name.removeprefix('jit(').removesuffix(')')
        if event.endswith('backend_compile_duration') and name in STEPS:
            thread = threading.current_thread()
            by_thread[isinstance(thread, AtOnce)].append(name)

    parts = experiment.prepare(tiny_config, tmp_path, one_device)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        experiment.run(parts, tmp_path)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert by_thread[False] == ['train']
    # Fine-tuning, training from phase 1 on; counts of phase 0, and of others.
    expected = ['adjust', 'count', 'count', 'learn', 'train', 'train']
    assert sorted(by_thread[True]) == expected


def test_a_resumed_run_compiles_what_is_left_of_it(
    tiny_config, one_device, tmp_path
):
    parts = experiment.prepare(tiny_config, tmp_path, one_device)

    def names(saved, last, stage):
        ahead = compile_ahead.of_run(parts, saved, last)
        return [program.name for program in ahead._listed(stage)]

    later = ['learning exemplars', 'adjusting exemplars', 'fine-tuning']
    end = ['features', 'evaluation']
    assert names(None, 0, 'train') == [later[0], later[2], *end]
    whole = ['training', *later, *end]
    assert names(None, 2, 'finetune') == [*end, *whole]
    assert names(0, 2, 'learn') == [*later[1:], *end, 'training']
    assert names(1, 2, 'learn') == [*later[1:], *end]
    assert names(1, 2, 'finetune') == end
    assert names(0, 2, 'of a plug-in') == whole


def test_stages_and_the_thread_compile_in_turns():
    log, goes_on = [], threading.Event()

    def slow():
        log.append('begins')
        assert goes_on.wait(10)
        log.append('ends')

    with CompileAhead(listed(slow)) as ahead:
        with ahead.turn('train'):
            log.append('first stage')
        threading.Timer(0.2, goes_on.set).start()
        while 'begins' not in log:
            pass
        with ahead.turn('train'):
            log.append('second stage')
    assert log == ['first stage', 'begins', 'ends', 'second stage']


@pytest.mark.parametrize('ends', ['by itself', 'with an error'])
def test_the_end_waits_for_one_program_and_skips_the_others(ends):
    begun, log = threading.Event(), []

    def first():
        begun.set()
        log.append('begins')
        ahead._stopped.wait(10)
        log.append('ends')
        if ends == 'with an error':
            raise ValueError

    ahead = CompileAhead(listed(first, lambda: log.append('second')))
    with ahead:
        with ahead.turn('train'):
            pass
        assert begun.wait(10)
    assert log == ['begins', 'ends']


def test_a_program_that_does_not_compile_leaves_the_others():
    def broken():
        raise RuntimeError('out of memory')

    compiled = threading.Event()
    with CompileAhead(listed(broken, compiled.set)) as ahead:
        with ahead.turn('train'):
            pass
        assert compiled.wait(10)
