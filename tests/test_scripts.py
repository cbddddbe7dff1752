"""The stage scripts: they say what they do, on one process and on several, and as Slurm jobs."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from scripts_world import QUICKSTART, REPOSITORY, STAGES, commands, script

from moduv.engine.config import load_preset, read_preset
from moduv.engine.pipeline import Place, config_class, options, select
from moduv.frames.splits import read_split
from moduv.instances.store import read_labels
from moduv.rounds.supervised import true_labels
from moduv.runs.catalogue import COMMANDS
from moduv.runs.chains import MODUV, folder
from moduv.street.dataset import StreetConfig, render_dataset


@pytest.mark.parametrize(("name", "expected"), [*STAGES.items(), ("quickstart", QUICKSTART)])
def test_a_dry_run_prints_the_commands_and_does_nothing(
    name: str, expected: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = script(name, "--dry-run", "--data", tmp_path / "data", SAVE=str(run))
    assert done.returncode == 0, done.stderr
    assert commands(done.stdout) == expected
    assert not any(tmp_path.iterdir())


def test_a_preset_leaves_out_steps_and_what_they_would_be_read_by(tmp_path: Path) -> None:
    """The small detector is trained in `paper`, and not in `street`."""
    published = script("3_large2small", "--dry-run", "--preset", "paper")
    assert commands(published.stdout) == ["round large", "round small", "labels aggregated"]
    assert "--small save/street/R2_L2S_small" in published.stdout
    street = script("3_large2small", "--dry-run")
    assert "R2_L2S_small" not in street.stdout
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: street\nsteps: {small: true}\n")
    again = script("3_large2small", "--dry-run", "--preset", mine)
    assert commands(again.stdout) == commands(published.stdout)
    for wrong in ("{large: false}", "{tiny: false}", "{small: 0}"):
        mine.write_text(f"extends: street\nsteps: {wrong}\n")
        done = script("3_large2small", "--dry-run", "--preset", mine)
        assert done.returncode == 2
        assert "write true or false for one of ['L0_carried', 'small']" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_preset_asks_for_a_step_whose_output_is_read_in_the_place_of_another(
    tmp_path: Path,
) -> None:
    """Without carried labels Moving2Mobile reads L0 and the run's split."""
    plain = script("2_moving2mobile", "--dry-run")
    assert commands(plain.stdout) == ["round moving2mobile", "labels mobile"]
    assert "--labels save/street/L0_pseudo_labels --out save/street/R1_M2M" in plain.stdout
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: street\nsteps: {L0_carried: true}\n")
    done = script("2_moving2mobile", "--dry-run", "--preset", mine)
    carried, trained, _ = done.stdout.splitlines()
    assert commands(done.stdout)[0] == "labels propagate"
    assert "--labels save/street/L0_pseudo_labels --out save/street/L0_carried_labels" in carried
    folder_of = "save/street/L0_carried_labels"
    assert f"--split {folder_of} --labels {folder_of}" in trained


@pytest.mark.parametrize("name", ["0_download_ckpts", *STAGES, "quickstart", "slurm_chain"])
def test_help_is_the_head_of_the_script_and_its_options(name: str, tmp_path: Path) -> None:
    done = script(name, "--help", SBATCH="false", SAVE=str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    head = (REPOSITORY / f"scripts/{name}.sh").read_text().splitlines()[1]
    assert f"# {lines[0]}" == head
    assert any(line.startswith("  --gpus ") for line in lines) == (name != "0_download_ckpts")
    assert not any(line.startswith("+") for line in lines)
    assert not any(tmp_path.iterdir())


def test_depth_on_what_moves_follows_a_run(tmp_path: Path) -> None:
    done = script("dynamic_depth/run", "--dry-run", "--data", tmp_path, SAVE=str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    expected = ["depth objects", "depth pseudo", "depth train", "motion predict"]
    assert commands(done.stdout) == expected
    for option, folder_of in (
        *(("labels", "L2_pseudo_labels"), ("moved", "L0_pseudo_labels"), ("weights", "motion")),
        *(("pseudo", "pseudo_depth"), ("objects", "depth_objects"), ("weights", "depth")),
    ):
        assert f"--{option} {tmp_path}/run/{folder_of}" in done.stdout
    helped = script("dynamic_depth/run", "--help")
    assert helped.stdout.startswith("Depth that holds on what moves")
    assert "--preset" in helped.stdout


def test_labels_of_a_run_get_identities_by_its_own_correspondences(tmp_path: Path) -> None:
    done = script(
        "correspondence/labels", "--dry-run", "--data", tmp_path, SAVE=str(tmp_path / "run")
    )
    assert done.returncode == 0, done.stderr
    assert commands(done.stdout) == ["correspondence train", "labels track"]
    trained, tracked = done.stdout.splitlines()
    assert trained.endswith(f"--data {tmp_path} --out {tmp_path}/run/correspondence")
    for option, folder_of in (("labels", "L2_pseudo_labels"), ("follow", "correspondence")):
        assert f"--{option} {tmp_path}/run/{folder_of}" in tracked
    assert "--preset" in script("correspondence/labels", "--help").stdout


GIVEN = ["depth masks", "depth roadmasks"]
FOUND = ["depth ground", "depth road", "depth slots", "depth candidates"]
FOUND += ["round moving2mobile", "labels mobile", "depth clean"]
FOUND += ["round final", "labels mobile", "depth clean"]


@pytest.mark.parametrize(("variant", "masks"), [("given_masks", GIVEN), ("unsupervised", FOUND)])
def test_the_published_depth_is_a_chain_of_commands(
    variant: str, masks: list[str], tmp_path: Path
) -> None:
    done = script(
        *("dynamic_depth/run", "--dry-run", "--preset", f"cityscapes_{variant}"),
        *("--data", tmp_path),
        SAVE=str(tmp_path / "run"),
    )
    assert done.returncode == 0, done.stderr
    last = ["depth objects", "depth shapes", "depth align", "depth pseudo", "depth final"]
    expected = ["depth pixelwise", "depth scenes", *masks, *last, "depth scenes", "depth scenes"]
    assert commands(done.stdout) == expected
    assert f"--shapes {tmp_path}/run/shapes" in done.stdout
    for command in {"depth pixelwise", *masks, *last}:
        config = config_class(COMMANDS[command])
        assert load_preset(config, f"cityscapes_{variant}", COMMANDS[command].section)


NAMING = {
    "1_pretrain_videomae": "name pretrain",
    "2_train_slots": "name slots",
    "3_train_patch_clip": "name patches",
    "4_evaluate": "name locate",
}
"""The scripts of names and their commands."""


@pytest.mark.parametrize(("name", "expected"), NAMING.items())
def test_the_scripts_of_names_say_what_they_would_do(
    name: str, expected: str, tmp_path: Path
) -> None:
    run = {"SAVE": str(tmp_path / "run"), "CLIP": "", "IMAGES": ""}
    done = script(f"naming/{name}", "--dry-run", "--data", tmp_path, "--preset", "paper", **run)
    assert done.returncode == 0, done.stderr
    assert commands(done.stdout) == [expected]
    assert "--preset paper" in done.stdout
    assert f"{tmp_path}/run/names" in done.stdout
    assert not any(tmp_path.iterdir())
    helped = script(f"naming/{name}", "--help")
    assert helped.stdout.startswith("Names, step")
    assert "--gpus" in helped.stdout
    if "CLIP" in done.stdout:
        refused = script(f"naming/{name}", "--data", tmp_path, **run)
        assert refused.returncode == 2
        assert refused.stderr.startswith("moduv: error: CLIP is not set")


def test_flags_and_variables_say_the_same() -> None:
    flags = script(
        "2_moving2mobile", "--dry-run", "--name", "waymo", "--gpus", 4, "--preset", "paper"
    )
    variables = script("2_moving2mobile", "--dry-run", NAME="waymo", GPUS="4", PRESET="paper")
    assert flags.stdout == variables.stdout
    lines = flags.stdout.splitlines()
    assert all(
        line.startswith(
            "+ python -m moduv.engine.launch --standalone --nproc_per_node 4 -m moduv.cli "
        )
        for line in lines
    )
    assert "--out save/waymo/R1_M2M" in lines[0]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--gpus", "none"), "GPUS is 'none'"),
        (("--colour", "red"), "unknown option --colour"),
        (("--name",), "--name needs a value"),
        (("--part", "tiny", "--dry-run"), "part 'tiny' is unknown"),
    ],
)
def test_wrong_options_are_one_sentence(options: tuple[str, ...], sentence: str) -> None:
    done = script("3_large2small", *options)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_interrupted_stage_ends_with_its_own_sentence(tmp_path: Path) -> None:
    """An interrupt reaches the stage and the chain alike; the chain waits for the stage to end."""
    stage = tmp_path / "stage.py"
    stage.write_text(
        "import sys, time\n"
        "try:\n    print('ready', flush=True)\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    time.sleep(1)\n    print('kept', flush=True)\n    sys.exit(130)\n"
    )
    # Under `nohup … &` a process starts without the handler.
    handled = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    stage.write_text(handled + stage.read_text())
    words = handled + "from moduv.engine import pipeline\nimport sys\n"
    words += f"sys.exit(pipeline._wait_for([sys.executable, {str(stage)!r}]))"
    command = [sys.executable, "-c", words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as chain:
        assert chain.stdout is not None
        assert chain.stdout.readline() == "ready\n"
        os.killpg(chain.pid, signal.SIGINT)
        printed, error = chain.communicate(timeout=60)
    assert (chain.returncode, printed, error) == (130, "kept\n", "")


def test_the_upper_bound_of_version_0_1_is_found(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert folder(run, "supervised") == run / "supervised"
    (run / "yardstick").mkdir(parents=True)
    assert folder(run, "supervised") == run / "yardstick"
    place = Place(run, tmp_path, {"train": tmp_path / "t"})
    (step,) = select(MODUV, ["supervised"])
    assert options(step, MODUV, place)["out"] == run / "yardstick"
    (run / "supervised").mkdir()
    assert folder(run, "supervised") == run / "supervised"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny street with true labels in the place of L0, and a preset of a few steps."""
    root = tmp_path_factory.mktemp("scripts")
    data = root / "street"
    render_dataset(data, StreetConfig(train_clips=2, val_clips=1, frames_per_clip=4, workers=1))
    split = data / "splits/train_files.txt"
    sections = read_preset("street")
    for name in ("moving2mobile", "large", "small", "final"):
        sections[name] = {**sections[name], "skip_empty": False}
        sections[name]["loop"] = {**sections[name]["loop"], "steps": 3, "batch_size": 1}
    sections["mobile_labels"]["score_threshold"] = 0.02
    sections["aggregated_labels"] |= {"large_score": 0.02, "small_score": 0.02}
    (root / "tiny.yaml").write_text(yaml.safe_dump(sections))
    for name in ("one", "two"):
        from moduv.rounds.supervised import TrueLabelsConfig

        true_labels(
            split,
            data / "annotations/train.json",
            root / name / "L0_pseudo_labels",
            TrueLabelsConfig(),
        )
    return root


@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_the_rounds_run_on_one_and_on_two_processes(world: Path, processes: int) -> None:
    run = world / ("one" if processes == 1 else "two")
    options = ["--gpus", processes, "--data", world / "street", "--preset", world / "tiny.yaml"]
    for name in ("2_moving2mobile", "3_large2small"):
        done = script(name, *options, SAVE=str(run))
        assert done.returncode == 0, done.stderr[-2000:]
    frames = read_split(world / "street/splits/train_files.txt")
    for level in ("L1", "L2"):
        found = [read_labels(run / f"{level}_pseudo_labels", frame) for frame in frames]
        assert all(labels.size is not None for labels in found)
        assert any(len(labels) for labels in found)
    # A batch of one cannot be shared by two, so it grows and the training has half the steps.
    last = (run / "R2_L2S_large/log.jsonl").read_text().splitlines()[-1]
    assert f'"step": {3 if processes == 1 else 2},' in last


def test_a_stage_on_two_processes_fails_with_one_sentence(world: Path, tmp_path: Path) -> None:
    options = ["--gpus", 2, "--data", world / "street", "--preset", world / "tiny.yaml"]
    done = script("2_moving2mobile", *options, SAVE=str(tmp_path / "run"))
    assert done.returncode == 2
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("moduv: error: ")
    assert "L0_pseudo_labels: has no labels" in sentence
    assert [line.partition(":")[0] for line in done.stdout.splitlines()[1:]] == ["round train"]


def test_train_py_trains_and_fails_with_one_sentence(world: Path, tmp_path: Path) -> None:
    labels, split = tmp_path / "labels", world / "street/splits/train_files.txt"
    shutil.copytree(world / "one/L0_pseudo_labels", labels)

    def train(name: str, *options: str) -> subprocess.CompletedProcess[str]:
        length = ["--epochs", "1", "--epoch_size", "2", "--round_name", name, *options]
        places = {"train_files": split, "data_dir": world / "street", "anno_dir": labels}
        places |= {"save_dir": tmp_path / "save", "preset": world / "tiny.yaml"}
        words = [word for key, path in places.items() for word in (f"--{key}", str(path))]
        command = [sys.executable, str(REPOSITORY / "train.py"), *length, *words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)

    done = train("R1")
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "save/example/R1/weights.pth").is_file()
    for path in labels.rglob("0*.json"):
        path.write_text("{")
    done = train("R2")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert re.match(r"moduv: error: .*\.json: not readable as JSON", done.stderr)
    assert train("R3", "--backbone_weights", "scratch").returncode == 2
