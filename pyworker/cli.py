"""The command line: up, run, bench, engine, status."""

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Final

from pyworker.commands.files import UserError
from pyworker.config import ConfigError
from pyworker.instance.parent import end_with
from pyworker.server.ports import PortTaken
from pyworker.settings import SettingsError

USAGE_ERROR: Final = 2
"""Exit status of a wrong call or a wrong configuration."""

COMMANDS: Final = ("up", "run", "bench", "engine", "status")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser(arguments).parse_args(arguments)
    if options.parent:
        end_with(options.parent)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except (UserError, ConfigError, PortTaken) as error:
        print(f"pyworker: {error}", file=sys.stderr)
    except SettingsError as error:
        for problem in error.problems:
            print(f"pyworker: {problem}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return USAGE_ERROR


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Knows the command that is named; all of them where none is."""
    parser = argparse.ArgumentParser("pyworker", description="The worker side of serverless GPU inference.")
    parser.add_argument("--parent", type=int, metavar="PID", help=argparse.SUPPRESS)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    named = [one for one in arguments if one in COMMANDS][:1]
    for name in named or COMMANDS:
        import_module(f"pyworker.commands.{name}").add(commands)
    return parser
