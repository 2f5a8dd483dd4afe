"""Scripts end with one line, whatever the command line says."""

import pytest
from absl import flags
from ml_collections import config_flags

from mtl_vision import cli
from mtl_vision.errors import DataError
from tests.tiny import ROOT

ARGV = ["train.py", "--config=configs/x.py", "--config.optim.lrr=3"]


@pytest.mark.parametrize(
    "error, line",
    [
        (
            AttributeError('\'lrr\'\nDid you mean "lr" instead of "lrr"?'),
            "config.optim.lrr: the config has no field 'lrr'. Did you mean 'lr'?",
        ),
        (KeyError("lrr"), "config.optim.lrr: the config has no field 'lrr'."),
        (flags.Error("flag --seed=a: not an int\nmore"), "flag --seed=a: not an int"),
        (ValueError(), "ValueError"),
    ],
)
def test_flag_errors_become_one_line(error, line):
    assert cli.explain(error, ARGV) == line


def test_user_errors_exit_with_one_line(capsys):
    def main():
        raise DataError("no data here.")

    with pytest.raises(SystemExit) as e:
        cli.start(main, ["train.py"])
    assert e.value.code == 1
    assert capsys.readouterr().err == "error: no data here.\n"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # how ml_collections loads a file
@pytest.mark.parametrize("row", ["", ":mtlora_r63"])
def test_a_config_without_that_row_exits_with_one_line(row, capsys, monkeypatch):
    monkeypatch.setattr(flags, "FLAGS", flags.FlagValues())
    config_flags.DEFINE_config_file("config", None, "Of a run.", flag_values=flags.FLAGS)
    with pytest.raises(SystemExit) as e:
        cli.start(lambda: None, ["train.py", f"--config={ROOT}/configs/tables/mtlora.py{row}"])
    (line,) = capsys.readouterr().err.splitlines()
    assert e.value.code == 1 and "mtlora_r64" in line
    assert line.startswith(f"error: configs/tables/mtlora.py has no row {row[1:]!r}")


def test_stray_arguments_are_refused(capsys):
    with pytest.raises(SystemExit):
        cli.start(lambda: None, ["train.py", "config.seed=1"])
    assert "unexpected argument 'config.seed=1'" in capsys.readouterr().err


def test_words_may_stand_between_flags():
    found = []
    cli.start(lambda *words: found.extend(words), ["predict.py", "a.png", "b.png"], words=True)
    assert found == ["a.png", "b.png"]


def test_flags_may_follow_the_command():
    found = []
    argv = ["benchmark.py", "step", "--undefok=other"]
    cli.start(found.append, argv, commands=("step", "input"))
    assert found == ["step"]


def test_other_exceptions_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.start(lambda: 1 / 0, ["train.py"])
