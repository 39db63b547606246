"""experiments/interruptions.py and faults.py: what they read of a workdir, and their tables.

`test_faults.py` runs real processes; here they are stand-ins.
"""

import json
import pathlib
import random
import signal
import subprocess

import pytest
from support.experiments import load, run_main


@pytest.fixture
def interruptions(monkeypatch):
    return load("interruptions", monkeypatch)


@pytest.fixture
def faults():
    return load("faults")


class Process:
    """A stand-in for `subprocess.Popen` that exits with a status once it receives a signal.

    Args:
        status: exit status after a signal.
        steps: called at each poll before, as if the process worked in the meantime.
        ended: exit status of a process that has ended already.
    """

    def __init__(self, status=0, steps=(), ended=None):
        self.status, self.steps, self.returncode = status, list(steps), ended
        self.received, self.killed = [], False

    def poll(self):
        if self.returncode is None and self.steps:
            self.steps.pop(0)()
        return self.returncode

    def send_signal(self, number):
        self.received.append(number)
        self.returncode = self.status

    def wait(self, timeout):
        if self.returncode is None:
            raise subprocess.TimeoutExpired("kdjax", timeout)
        return self.returncode

    def kill(self):
        self.killed = True


def checkpoints(folder, *names):
    for name in names:
        (folder / "checkpoints" / name).mkdir(parents=True)


def metrics(folder, *lines):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("\n".join(lines))


def train(step):
    return json.dumps({"step": step, "split": "train", "loss": 1.0})


# What is read of a workdir


def test_logged_step_is_that_of_the_last_complete_training_line(interruptions, tmp_path):
    assert interruptions.logged_step(tmp_path) == 0
    dev = json.dumps({"step": 99, "split": "dev", "nll": 1.0})
    metrics(tmp_path, train(3), train(12), dev, '{"step": 13, "spl')
    assert interruptions.logged_step(tmp_path) == 12
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b"\xff\n" + train(14).encode())  # a character that is being written
    assert interruptions.logged_step(tmp_path) == 14


def test_saved_step_ignores_what_is_being_written(interruptions, tmp_path):
    assert interruptions.saved_step(tmp_path) == 0
    checkpoints(tmp_path, "8", "16", "24.orbax-checkpoint-tmp")
    assert interruptions.saved_step(tmp_path) == 16
    assert interruptions.is_saving(tmp_path)


def test_newest_checkpoint_is_of_the_student_as_soon_as_it_has_one(faults, tmp_path):
    assert faults.newest_checkpoint(tmp_path) == "none"
    checkpoints(tmp_path / "teacher", "5", "10", "15.orbax-checkpoint-tmp")
    assert faults.newest_checkpoint(tmp_path) == "teacher 10"
    checkpoints(tmp_path, "7.orbax-checkpoint-tmp")
    assert faults.newest_checkpoint(tmp_path) == "teacher 10"
    checkpoints(tmp_path, "7", "14")
    assert faults.newest_checkpoint(tmp_path) == "student 14"


@pytest.mark.parametrize("stage", ["", "teacher"])
def test_a_run_saves_while_either_stage_has_a_temporary_folder(faults, tmp_path, stage):
    checkpoints(tmp_path / stage, "1")
    assert not faults.is_saving(tmp_path)
    checkpoints(tmp_path / stage, "2.orbax-checkpoint-tmp")
    assert faults.is_saving(tmp_path)


def test_moments_are_reached_in_their_order(interruptions, tmp_path):
    """A workdir grows as that of a run does; each step reaches the next moment and no later one."""
    printed = ""

    def reached():
        return [moment.reached(tmp_path, printed) for moment in interruptions.MOMENTS]

    def write(name):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def save(folder):
        checkpoints(folder, "1.orbax-checkpoint-tmp")

    def saved(folder):
        (folder / "checkpoints" / "1.orbax-checkpoint-tmp").rmdir()

    assert not any(reached())
    order = [
        lambda: write(".lock_owner"),
        lambda: write("teacher/config.json"),
        "teacher  a step takes 3 ms\n",
        lambda: save(tmp_path / "teacher"),
        lambda: [saved(tmp_path / "teacher"), write("config.json")],
        "the teacher is finished: step 3\n",
        "student  a step takes 3 ms\n",
        lambda: save(tmp_path),
        "student  epoch 8/8 accuracy 1\n",
        lambda: write("predictions/dev.npz"),
        lambda: write("results.json"),
    ]
    assert len(order) == len(interruptions.MOMENTS)
    for place, change in enumerate(order):
        if isinstance(change, str):
            printed += change
        else:
            change()
        now = reached()
        assert now[place] and not any(now[place + 1 :]), interruptions.MOMENTS[place].name


# Interruptions


def started_run(interruptions, patch, folder, processes):
    """Makes `start` return these processes and write the log of the first one."""
    log = folder.with_name(f"{folder.name}-0.log")
    log.write_text("student  a step takes 3 ms\n")  # of an earlier start

    def start(folder, count, flags):
        assert (count, flags) == (len(processes), ["--flag"])
        return processes

    patch.setattr(interruptions.faults, "start", start)
    return log


def test_interruption_waits_for_its_moment_and_counts_the_lost_steps(
    interruptions, tmp_path, monkeypatch
):
    folder = tmp_path / "interrupted"

    def works():
        metrics(folder, train(11), train(12), train(13))
        metrics(folder / "teacher", train(4))
        checkpoints(folder, "12")
        checkpoints(folder / "teacher", "5")

    def prints():
        with log.open("a") as file:
            file.write("student  a step takes 4 ms\ninterrupted; run the same command again\n")

    processes = [Process(1, [lambda: None, works, prints]), Process(1)]
    log = started_run(interruptions, monkeypatch, folder, processes)
    (moment,) = (each for each in interruptions.MOMENTS if each.name == "an epoch of the student")
    result = interruptions.interrupt(folder, moment, 2, ["--flag"])
    assert [process.received for process in processes] == [[signal.SIGINT]] * 2
    assert result.statuses == [1, 1] and result.at_step == "student 12"
    assert result.lost == 1  # 13 of the student; the teacher's checkpoint is newer than its log
    assert result.message == "interrupted; run the same command again"


def test_run_that_ends_before_the_moment_is_an_error(interruptions, tmp_path, monkeypatch):
    started_run(interruptions, monkeypatch, tmp_path / "interrupted", [Process(ended=0)])
    with pytest.raises(SystemExit, match=r"interrupted ended before 'the report': see .*-0\.log"):
        interruptions.interrupt(tmp_path / "interrupted", interruptions.MOMENTS[-1], 1, ["--flag"])


@pytest.mark.parametrize(
    ("different", "lost", "status"), [([], 1, 0), (["results.json"], 0, 1), ([], 2, 1)]
)
def test_exit_status_is_1_if_the_run_differs_or_loses_steps(
    interruptions, monkeypatch, capsys, tmp_path, different, lost, status
):
    done = interruptions.Interruption("the report", [1], 0.3, "student 12", lost, "interrupted")

    def campaign(out, processes, flags):
        assert flags == ["--config.log_every=1", "--config.seed=1"] and out.is_absolute()
        return [done], different

    monkeypatch.setattr(interruptions, "campaign", campaign)
    monkeypatch.setattr(interruptions.signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as exit_info:
        run_main(interruptions, monkeypatch, f"--out={tmp_path}", "--config.seed=1")
    assert int(exit_info.value.code) == status
    text = capsys.readouterr().out
    assert f"| the report | 1 | 0.3 | student 12 | {lost} |" in text
    verdict = f"differs: {', '.join(different)}" if different else "is bit-identical"
    assert text.endswith(f"The run that was interrupted {verdict}.\n")


# Kills


def test_processes_that_do_not_exit_in_time_are_killed(faults):
    processes = [Process(ended=0), Process()]
    with pytest.raises(SystemExit, match=r"a process did not exit within 0\.1 s"):
        faults.wait(processes, 0.1)
    assert all(process.killed for process in processes)


def test_failed_run_is_an_error_with_its_log(faults, tmp_path):
    faults.require_done(tmp_path / "run-0", [0, 0])
    with pytest.raises(
        SystemExit, match=r"run-0 ended with statuses \[0, 1\]: see .*run-0-\*\.log"
    ):
        faults.require_done(tmp_path / "run-0", [0, 1])


def test_one_process_is_killed_and_the_others_must_end(faults, tmp_path):
    processes = [Process(status=75), Process(status=75)]
    seed = next(seed for seed in range(20) if random.Random(seed).random() >= 0.5)  # in no save
    checkpoints(tmp_path / "teacher", "3")
    (tmp_path / "run-4").mkdir()
    other = processes[1 - victim_of(seed)]
    other.returncode = 75  # it notices the death of the other one
    rng = random.Random(seed)
    faults.wait_for_moment = lambda *_: rng.random()
    fault = faults.kill_one(tmp_path / "run-4", processes, rng, seconds=0.0)
    assert (fault.run, fault.process, fault.statuses) == (4, victim_of(seed), [75, 75])
    assert fault.signal in ("SIGKILL", "SIGTERM") and fault.at_step == "none"
    assert not fault.saving


def victim_of(seed):
    rng = random.Random(seed)
    rng.random()
    return rng.randrange(2)


def test_run_that_finished_before_the_kill_is_not_a_fault(faults, tmp_path):
    rng = random.Random(0)
    assert faults.kill_one(tmp_path / "run-0", [Process(ended=0)], rng, seconds=0.0) is None
    late = [Process(status=0)]  # ends by itself when the signal arrives
    faults.wait_for_moment = lambda *_: None
    assert faults.kill_one(tmp_path / "run-0", late, rng, seconds=0.0) is None
    assert late[0].received


def test_kill_waits_for_a_save_in_half_of_the_cases(faults, tmp_path):
    seeds = {random.Random(seed).random() < 0.5: seed for seed in range(20)}
    saves = [lambda: None, lambda: checkpoints(tmp_path, "3.orbax-checkpoint-tmp")]
    waiting, at_once = Process(steps=list(saves)), Process(steps=list(saves))
    faults.wait_for_moment(tmp_path, [at_once], random.Random(seeds[False]), 0.0)
    assert len(at_once.steps) == 1 and not faults.is_saving(tmp_path)
    faults.wait_for_moment(tmp_path, [waiting], random.Random(seeds[True]), 0.0)
    assert not waiting.steps and faults.is_saving(tmp_path)


def test_runs_are_killed_until_the_number_of_kills_is_reached(faults, tmp_path, monkeypatch):
    """The first run is killed twice, the second one once and then left to finish."""
    fault = faults.Fault(0, "SIGKILL", 0, 1.0, "student 3", True, [-9], 0.1)
    outcomes, starts = [fault, fault, None, fault], []

    def start(folder, processes, flags):
        starts.append(folder.name)
        return [Process(ended=0)]

    monkeypatch.setattr(faults, "start", start)
    monkeypatch.setattr(faults, "kill_one", lambda *_: outcomes.pop(0))
    monkeypatch.setattr(faults, "fingerprint", lambda folder: {"results.json": "same"})
    flags = ["--config.seed=1"]
    with pytest.raises(SystemExit, match=r"0|False"):
        run_main(faults, monkeypatch, "--kills=3", f"--out={tmp_path}", *flags)
    assert starts == ["undisturbed", *["run-0"] * 3, *["run-1"] * 2]
    stored = json.loads((tmp_path / "faults.json").read_text())
    assert len(stored["faults"]) == 3
    assert stored["different"] == {"run-0": [], "run-1": []}


def test_fingerprints_differ_in_names_and_in_contents(faults):
    a = {"results.json": "1", "student, step 8": "2", "dev": "3"}
    assert faults.differing(a, dict(a)) == []
    b = {"results.json": "1", "student, step 9": "2", "dev": "4"}
    assert faults.differing(a, b) == ["dev", "student, step 8", "student, step 9"]


def test_table_counts_kills_of_a_kind_and_recovered_runs(faults):
    killed = faults.Fault(0, "SIGKILL", 0, 1.0, "student 3", True, [-9, 75], 0.4)
    results = {
        "faults": [killed, killed._replace(statuses=[75, -9], ended_in=2.5),
                   killed._replace(run=1, signal="SIGTERM", saving=False, statuses=[75, 75])],
        "different": {"run-0": [], "run-1": ["results.json"]},
    }  # fmt: skip
    lines = faults.table(results).splitlines()
    assert lines[2:4] == [
        "| SIGKILL | yes | [-9, 75] | 2 |",
        "| SIGTERM | no | [75, 75] | 1 |",
    ]
    assert lines[-1].startswith("Recovered from 2 of 3 kills; 1 of 2 runs are bit-identical")
    assert lines[-1].endswith("the last process exited at most 2.5 s after the signal.")


def test_processes_of_a_run_have_their_flags_and_append_to_their_logs(
    faults, tmp_path, monkeypatch
):
    commands, folder = [], tmp_path / "run-0"
    folder.with_name("run-0-0.log").write_text("earlier\n")

    def popen(command, *, cwd, env, stdout, stderr):
        commands.append((command, env))
        stdout.write(b"later\n")
        return Process()

    monkeypatch.setattr(faults.subprocess, "Popen", popen)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    assert len(faults.start(folder, 2, ["--config.seed=1"])) == 2
    assert folder.with_name("run-0-0.log").read_text() == "earlier\nlater\n"
    assert folder.with_name("run-0-1.log").read_text() == "later\n"
    (first, environment), (second, _) = commands
    assert environment["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / "compiled")
    assert "--config.seed=1" in first and f"--workdir={folder}" in first
    assert first[-3].startswith("--coordinator=127.0.0.1:") and first[-3] == second[-3]
    assert [command[-1] for command, _ in commands] == ["--process_id=0", "--process_id=1"]
    assert pathlib.Path(first[0]).name.startswith("python")
