"""How every script starts and fails: one line on stderr and exit code 1, or a clean exit."""

import logging
import os
import pathlib
import re
import runpy
import sys
import traceback
from collections.abc import Callable, Collection, Mapping
from typing import Any, NoReturn

from absl import flags

from mtl_vision import hosts
from mtl_vision.allocator import keep_memory
from mtl_vision.errors import ConfigError, Requeue, UserError

# What absl and ml_collections raise for a flag, a config file or an override that is wrong.
FLAG_ERRORS = (
    flags.Error,
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
    SyntaxError,
    OSError,
    ImportError,
)


def fail(message: object, code: int = 1) -> NoReturn:
    """Prints ``error: ...`` and exits."""
    print(f"error: {message}", file=sys.stderr)
    hosts.leave(code)


def start(
    main: Callable[..., None],
    argv: list[str] | None = None,
    *,
    commands: Collection[str] = (),
    words: bool = False,
) -> None:
    """Parses the flags, then runs `main`; what a user can cause ends as one line and exit 1.

    A run that was asked to stop, or has lost a host, exits with `hosts.REQUEUE`.

    Args:
      main: without arguments, of one command if there are `commands`, or of all `words`.
      argv: the command line.
      commands: words of which the command line must hold exactly one.
      words: whether it may hold any, anywhere.
    """
    keep_memory()
    # Programs compiled once serve the next start of the same run, and its evaluation; small ones
    # too, as a model's first parameters come from dozens.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_folder() / "jax"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.02")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    argv = sys.argv if argv is None else argv
    # A config may start from another: `from configs import ...`.
    sys.path.append(str(pathlib.Path(__file__).parents[1]))
    flags.FLAGS.set_gnu_getopt(words or bool(commands))
    try:
        rest = flags.FLAGS(argv)[1:]
    except UserError as e:  # of a config that has no such row
        fail(e)
    except FLAG_ERRORS as e:
        fail(explain(e, argv))
    if commands and (len(rest) != 1 or rest[0] not in commands):
        fail(f"give one of {', '.join(commands)}, not {' '.join(rest) or 'none'}.")
    if rest and not commands and not words:
        fail(f"unexpected argument {rest[0]!r}; options are written --name=value.")
    try:
        main(*rest)
    except UserError as e:
        fail(e)
    except Requeue as e:
        print(e, file=sys.stderr)
        sys.exit(hosts.REQUEUE)  # together with the other processes
    except KeyboardInterrupt:
        fail("interrupted; start the same command again to go on from the last checkpoint.")
    except Exception as e:
        if not hosts.joined():
            raise
        if hosts.lost(e):
            fail(f"another process is lost ({str(e).splitlines()[0]}).", hosts.REQUEUE)
        traceback.print_exc()
        hosts.leave(1)


def cache_folder() -> pathlib.Path:
    """Returns the folder for what can be made again: ``$XDG_CACHE_HOME/mtl_vision``."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "mtl_vision"


def config_value(holder: flags.FlagHolder) -> Mapping[str, Any]:
    """Returns the config of a `config_flags` flag as plain nested dicts.

    Raises:
      ConfigError: no config was given, or its file cannot be loaded.
    """
    name = holder.name
    try:
        if holder.value is None:
            raise ConfigError(f"--{name} is missing; give a file, such as configs/quickstart.py.")
        return holder.value.to_dict()
    except OSError as e:
        path = next((a for a in sys.argv if a.endswith(".py") and a != sys.argv[0]), name)
        raise ConfigError(f"{path} cannot be loaded as a config: {root_cause(e)}.") from e


def load_config(path: str | pathlib.Path) -> dict[str, Any]:
    """Returns the values of a config file, or of a row of it: ``configs/mini.py:swin.full``.

    Raises:
      ConfigError: there is no such file or row, or it cannot be run.
    """
    file, *row = str(path).split(":", 1)
    try:
        return runpy.run_path(file)["get_config"](*row).to_dict()
    except UserError:
        raise
    except Exception as e:
        raise ConfigError(f"{path} cannot be loaded as a config: {root_cause(e)}.") from e


def root_cause(error: BaseException) -> str:
    """Returns what the first exception of a chain says, in one line."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def explain(error: BaseException, argv: list[str]) -> str:
    """Returns one line for an exception of the flags parser."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    found = re.search(r'Did you mean "(.+?)" instead of "(.+?)"', text)
    field = found[2] if found else text.strip("'\"")
    for argument in argv:
        name = argument.lstrip("-").split("=")[0]
        if name.startswith("config.") and field in name.split("."):
            hint = f" Did you mean {found[1]!r}?" if found else ""
            return f"{name}: the config has no field {field!r}.{hint}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
