"""Programs of later stages, compiled while the first one runs."""

import threading
import time
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


def thread_for(stops=lambda: None, **functions):
    """A thread that is to compile functions; `_` in a name is a space."""
    programs = [
        Program(name.replace('_', ' '), Function(function), (), '', 1, 1)
        for name, function in functions.items()
    ]
    ahead = CompileAhead(stops)
    ahead.plan(lambda stage: programs)
    return ahead


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

    def names(first, last, stage):
        found = compile_ahead.later(parts, first, last, stage)
        return [program.name for program in found]

    after = ['learning exemplars', 'adjusting exemplars', 'fine-tuning']
    end = ['features', 'evaluation']
    assert names(0, 0, 'train') == [after[0], after[2], *end]
    whole = ['training', *after, *end]
    assert names(0, 2, 'finetune') == [*end, *whole]
    assert names(1, 2, 'learn') == [*after[1:], *end, 'training']
    assert names(2, 2, 'learn') == [*after[1:], *end]
    assert names(2, 2, 'finetune') == end
    assert names(1, 2, 'of a plug-in') == whole


def test_a_stage_waits_for_its_own_program_alone():
    begun, goes_on, log = threading.Event(), threading.Event(), []

    def slow():
        log.append('begins')
        begun.set()
        assert goes_on.wait(10)
        log.append('ends')

    with thread_for(learning_exemplars=slow) as ahead:
        with ahead.turn('train'):
            log.append('train')
        assert begun.wait(10)
        with ahead.turn('adjust'):
            log.append('adjust')
        threading.Timer(0.2, goes_on.set).start()
        with ahead.turn('learn'):
            log.append('learn')
    assert log == ['train', 'begins', 'adjust', 'ends', 'learn']


def test_the_thread_begins_nothing_during_a_first_step():
    first, second, log = threading.Event(), threading.Event(), []

    def slow():
        first.set()
        assert second.wait(10)
        log.append('first program')

    with thread_for(a=slow, b=lambda: log.append('second program')) as ahead:
        with ahead.turn('train'):
            pass
        assert first.wait(10)
        with ahead.turn('learn'):
            second.set()
            while 'first program' not in log:
                time.sleep(0.01)
            time.sleep(0.2)
            log.append('stage')
        while len(log) < 3:
            time.sleep(0.01)
    assert log == ['first program', 'stage', 'second program']


@pytest.mark.parametrize('ends', ['the run', 'a request to stop'])
def test_the_end_waits_for_one_program_and_skips_the_others(ends):
    begun, goes_on, log, asked = threading.Event(), threading.Event(), [], []

    def slow():
        begun.set()
        assert goes_on.wait(10)
        log.append('first')

    programs = {'a': slow, 'b': lambda: log.append('second')}
    with thread_for(lambda: asked, **programs) as ahead:
        with ahead.turn('train'):
            pass
        assert begun.wait(10)
        if ends == 'a request to stop':
            asked.append('SIGTERM')
            goes_on.set()
            ahead._thread.join(10)
        else:
            threading.Timer(0.2, goes_on.set).start()
    assert log == ['first']


def test_what_does_not_compile_leaves_the_others_and_says_nothing(capfd):
    def broken():
        raise RuntimeError('out of memory')

    compiled = threading.Event()
    with thread_for(a=broken, b=compiled.set) as ahead:
        with ahead.turn('train'):
            pass
        assert compiled.wait(10)
    with CompileAhead() as ahead:
        ahead.plan(lambda stage: {}[stage])
        with ahead.turn('train'):
            pass
    assert capfd.readouterr() == ('', '')


def test_nothing_is_compiled_ahead_in_a_context_of_another_precision():
    log = []
    with (
        thread_for(a=lambda: log.append('compiled')) as ahead,
        jax.default_matmul_precision('highest'),
        ahead.turn('train'),
    ):
        pass
    assert log == []
