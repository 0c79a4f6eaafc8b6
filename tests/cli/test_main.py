from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import time
from types import ModuleType

import pytest

from framework import __version__
from framework.cli import main as main_module
from framework.cli.main import COMMANDS, main
from framework.cli.world import COMMANDS as WORLD_COMMANDS
from framework.errors import UserError


@pytest.fixture
def command(monkeypatch):
    """Add a command whose ``run`` is given."""

    def add(run, add_arguments=lambda parser: None) -> None:
        module = ModuleType("dm_test_command", "A command.")
        module.add_arguments, module.run = add_arguments, run
        monkeypatch.setitem(sys.modules, "dm_test_command", module)
        monkeypatch.setitem(main_module.COMMANDS, "probe", ("dm_test_command", "a probe"))

    return add


def test_help_is_fast_and_imports_no_heavy_library():
    code = (
        "import sys, framework.cli.main as m; status = m.main(['--help']);"
        "print([n for n in ('torch', 'diffusers', 'transformers', 'rich') if n in sys.modules],"
        "file=sys.stderr); sys.exit(status)"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr.strip() == "[]"
    assert all(name in done.stdout for name in COMMANDS)
    assert time.monotonic() - started < 5  # 0.1 s on an idle machine


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"dreammatcher {__version__}\n"


@pytest.mark.parametrize(
    "words", [[name] for name in COMMANDS] + [["world", name] for name in WORLD_COMMANDS]
)
def test_every_command_has_help(words, capsys):
    assert main([*words, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: dreammatcher {' '.join(words)}")
    assert len(shown.splitlines()) > 5
    assert f"\nexamples:\n  dreammatcher {' '.join(words)}" in shown or "world" in words


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "dreammatcher needs a command: demo, train"),
        (["world"], "dreammatcher world needs a command: preview"),
        (["smaple"], "Unknown command 'dreammatcher smaple'. Did you mean 'sample'?"),
        (["world", "previw"], "Did you mean 'preview'?"),
        (["--frobnicate"], "Unknown command 'dreammatcher --frobnicate'."),
        (["config", "--confg", "x"], "Unknown argument '--confg'. Did you mean '--config'?"),
        (["config", "--config"], "argument --config: expected one argument."),
        (["config", "words"], "'words' is no override; expected key=value"),
        (["config", "--config", "presets/papr"], "Did you mean 'presets/paper'?"),
        (["config", "matcher=cycle"], "Unknown matcher 'cycle'. Did you mean 'cycle_argmax'?"),
        (["sample", "--seed", "x"], "argument --seed: invalid int value: 'x'."),
        (["sample", "--seed", str(2**64)], f"seeds has {2**64}; expected integers from 0 to"),
        (["inspect", "--prompt", " "], "The prompt is empty; give e.g. --prompt 'a photo of a {}'"),
        (
            ["match-bench", "--split", "tst"],
            "argument --split: invalid choice: 'tst' (choose from 'trn', 'val', 'test')",
        ),
        (["match-bench", "--pairs", "0"], "--pairs is 0; expected a value in [1, 1e+06]."),
        (["match-bench", "--images", ".", "--class-name", " "], "--class-name is empty; give the"),
        (["match-bench", "--matcher", "a 'b=1"], "a quotation mark is not closed; expected 'NAME"),
        (["match-bench", "--matcher", ","], "--matcher is ','; expected a name, e.g. cycle_argmax"),
        (
            ["ablate", "components", "--dry-run", "--timed", "-1"],
            "--timed is -1; expected at least",
        ),
        (["list", "matchers"], "Unknown kind of part 'matchers'. Did you mean 'matcher'?"),
        (["list", "--plugin", "dm_no_such"], "'dm_no_such' cannot be imported"),
        (["world", "pretrain", "vea"], "argument stage: invalid choice: 'vea'"),
        (["world", "pretrain", "vae", "nosuch=1"], "Stage 'vae': Key 'nosuch' not in"),
        (["world", "render", "x", "--objects", "0"], "--objects is 0; expected at least 1."),
        (["world", "render", __file__, "--objects", "1"], "a file is in its place."),
        (["world", "pretrain", "clip", "--data", "nowhere"], "holds no finished set; make one"),
        (["world", "pretrain", "restore", "--target", "nowhere"], "has no folder 'tokenizer'"),
        (["world", "pretrain", "export", "--work", "nowhere"], "models/unet' is not there"),
        (["world", "evaluate", "--target", "nowhere", "--data", "x"], "holds no finished set"),
        (["world", "preview", "--output", "x.txt"], "expected a file name that ends in .png."),
        (["world", "preview", "--seed", "-1"], "--seed is -1; expected at least 0."),
    ],
)
def test_bad_input_gives_one_message_and_status_2(words, expected, capsys):
    assert main(words) == 2
    shown = capsys.readouterr().err.strip().splitlines()[-1]
    assert shown.startswith("dreammatcher: error: ")
    assert expected in shown


def test_options_and_overrides_may_be_mixed(command):
    seen = {}

    def declare(parser):
        parser.add_argument("--seed", type=int)
        parser.add_argument("words", nargs="*")

    command(lambda args: seen.update(vars(args)), declare)
    assert main(["--quiet", "probe", "a=1", "--seed", "3", "b=2"]) == 0
    assert (seen["words"], seen["seed"], seen["quiet"]) == (["a=1", "b=2"], 3, True)


def raising(error):
    def run(args):
        raise error

    return run


def test_what_a_command_raises_becomes_a_message_and_a_status(command, capsys):
    command(raising(UserError("no good.")))
    assert main(["probe"]) == 2
    assert capsys.readouterr().err == "dreammatcher: error: no good.\n"

    assert main(["probe", "--debug"]) == 2
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.endswith("dreammatcher: error: no good.\n")

    command(raising(KeyboardInterrupt()))
    assert main(["probe"]) == 130
    assert "interrupted; what was finished is kept" in capsys.readouterr().err

    command(raising(OSError(errno.ENOSPC, "No space left on device", "out/a.png")))
    assert main(["probe"]) == 2
    assert "the disk is full" in capsys.readouterr().err

    command(raising(MemoryError()))
    assert main(["probe"]) == 2
    assert "sampler.batch_size=1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "quoted"),
    [
        (OSError(errno.EIO, "I/O error"), "(OSError: [Errno 5] I/O error)"),
        (RuntimeError("\n  first of it\nsecond"), "(RuntimeError: first of it)"),
        (KeyError("x"), "(KeyError: 'x')"),
        (ValueError(), "(ValueError)"),
    ],
)
def test_what_nobody_expected_is_a_sentence_and_status_1(command, capsys, error, quoted):
    command(raising(error))
    assert main(["probe"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith(f"dreammatcher: error: something unexpected went wrong {quoted}. Run")
    assert "--debug" in shown and len(shown.splitlines()) == 1
    assert main(["probe", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_plugin_that_leaves_on_its_own(command, capsys):
    command(raising(SystemExit("enough")))
    assert main(["probe"]) == 1
    assert capsys.readouterr().err == "dreammatcher: error: enough\n"
    command(raising(SystemExit(5)))
    assert main(["probe"]) == 5


def test_a_request_to_terminate_ends_a_command_with_a_word(command, capsys):
    before = signal.getsignal(signal.SIGTERM)

    def run(args):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    command(run)
    assert main(["probe"]) == 143
    assert "terminated; what was finished is kept" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


def test_help_before_the_command_is_its_help(capsys):
    assert main(["help", "config"]) == 0
    shown = capsys.readouterr().out
    assert main(["config", "--help"]) == 0
    assert capsys.readouterr().out == shown
    assert main(["help", "world", "preview"]) == 0
    assert capsys.readouterr().out.startswith("usage: dreammatcher world preview")


@pytest.mark.parametrize("word", ["a\0b", "\udcff"])
def test_words_that_are_no_text_are_refused(word, capsys):
    assert main(["sample", "--prompt", word]) == 2
    assert "is not valid UTF-8 text" in capsys.readouterr().err


def test_a_command_s_status_is_the_exit_status(command):
    command(lambda args: 7)
    assert main(["probe"]) == 7
    command(lambda args: None)
    assert main(["probe"]) == 0


def test_own_messages_are_shown_and_those_of_libraries_are_not(command, capsys):
    def run(args):
        for name in ("framework.x", "pytorch_lightning.x", "some_library"):
            logging.getLogger(name).info("info of %s", name)
            logging.getLogger(name).warning("warning of %s", name)
            logging.getLogger(name).error("error of %s", name)

    command(run)
    main(["probe"])
    shown = capsys.readouterr().err
    assert "info of framework.x" in shown
    assert "warning of pytorch" not in shown
    assert "warning of some_library" not in shown
    assert "error of some_library" in shown
    main(["probe", "--quiet"])
    shown = capsys.readouterr().err
    assert "info of framework.x" not in shown
    assert "warning of framework.x" in shown


def test_quiet_hides_progress_bars(command, capsys):
    from framework.runs.progress import progress

    command(lambda args: sum(progress(range(3), "counting")) - 3)
    assert main(["probe", "--quiet"]) == 0
    assert "counting" not in capsys.readouterr().err


def test_a_plugin_in_the_current_folder_is_found(tmp_path, monkeypatch, capsys):
    (tmp_path / "dm_test_here.py").write_text("print('imported')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert main(["config", "plugins=[dm_test_here]"]) == 0
    assert capsys.readouterr().out.startswith("imported\nplugins:\n- dm_test_here\n")
    sys.modules.pop("dm_test_here")


def test_the_process_is_left_as_it_was(command):
    before = (list(logging.getLogger().handlers), logging.getLogger("framework").level)
    command(lambda args: 0)
    assert main(["probe", "--quiet"]) == 0
    assert (list(logging.getLogger().handlers), logging.getLogger("framework").level) == before
