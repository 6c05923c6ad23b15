"""The options of the service: flags, environment variables and commands, each declared once."""

import ipaddress
import os
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from models import ID_AT_MOST, OPENID_AT_MOST
from service import backup, demo, moderation
from service.database import SetupError
from service.schema import run_beside_service

DATA = Path(__file__).parent.parent / "data"


def number(at_least, at_most):
    """What reads a number in these bounds."""

    def read(text):
        if not (text.isdecimal() and at_least <= int(text) <= at_most):
            raise ArgumentTypeError(f"{text!r} is not a number from {at_least} to {at_most}")
        return int(text)

    return read


def openid(text):
    if not (text.isprintable() and " " not in text and 1 <= len(text) <= OPENID_AT_MOST):
        raise ArgumentTypeError(f"{text!r} is not an openid")
    return text


def machine_address(text):
    try:
        return text and str(ipaddress.ip_address(text))
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not the address of one machine") from None


def web_address(text):
    with suppress(ValueError):
        url = urlsplit(text)
        is_web = url.scheme in ("https", "http") and text.isascii() and not url.query
        if is_web and url.port != 0 and (url.hostname or "").encode("idna"):
            return text
    raise ArgumentTypeError(f"{text!r} is not the address of a web server")


class Option(NamedTuple):
    default: str
    read: Callable[[str], Any]  # from a flag or variable; raises ArgumentTypeError
    help: str
    has_flag: bool = False


# Other users of the machine can see flags, so secrets come only from the environment. So does what
# is set once for an installation.
OPTIONS = {
    "host": Option(
        "127.0.0.1", str, "address to listen on; 0.0.0.0 is every address of this machine", True
    ),
    "port": Option("8080", number(0, 65535), "port to listen on; 0 takes a free one", True),
    "database": Option(
        str(DATA / "roomapp.db"),
        Path,
        "SQLite file that keeps the data, made when it is missing",
        True,
    ),
    "wechat_appid": Option(
        "", str, "AppID of the mini-program, to verify who calls by WeChat's login"
    ),
    "wechat_secret": Option("", str, "AppSecret of the mini-program"),
    "wechat_api": Option("https://api.weixin.qq.com", web_address, "where WeChat answers"),
    "check_text": Option("1", number(0, 1), "1 has WeChat check what people write, 0 does not"),
    "trusted_proxy": Option(
        "", machine_address, "reverse proxy whose X-Forwarded-For and -Proto are believed"
    ),
}


def variable(name):
    return f"ROOMAPP_{name.upper()}"


def from_environment(name):
    """What the environment says of an option, as text, or else its default."""
    return os.environ.get(variable(name)) or OPTIONS[name].default


@cache
def setting(name):
    """What the environment says of an option; SetupError when that cannot be."""
    try:
        return OPTIONS[name].read(from_environment(name))
    except ArgumentTypeError as problem:
        raise SetupError(f"{variable(name)}: {problem}") from None


def check_environment():
    """SetupError for a bad variable; those with a flag are read where the flag is."""
    for name, option in OPTIONS.items():
        if not option.has_flag:
            setting(name)


def wechat_settings():
    """AppID, AppSecret and the address of WeChat."""
    return setting("wechat_appid"), setting("wechat_secret"), setting("wechat_api")


def is_verified():
    """Whether callers are verified; SetupError when only half of that is configured."""
    appid, secret, _ = wechat_settings()
    if bool(appid) != bool(secret):
        raise SetupError("set both ROOMAPP_WECHAT_APPID and ROOMAPP_WECHAT_SECRET, or neither")
    if "..." in (appid, secret):  # as deploy/README.md has them
        raise SetupError("ROOMAPP_WECHAT_APPID or ROOMAPP_WECHAT_SECRET is still `...`")
    return bool(appid)


def texts_are_checked():
    return is_verified() and setting("check_text") == 1


class Parser(ArgumentParser):
    def error(self, message):
        """Say what is wrong in one line, without argparse's usage text, and exit with 2."""
        for name in OPTIONS:
            message = message.replace(f"argument --{name}:", f"--{name} or {variable(name)}:")
        self.exit(2, f"roomapp: {' '.join(message.split())}\n")


def parser(serve, version):
    """The parser of the command line; what runs with the options is their `run`."""
    others = (name for name, option in OPTIONS.items() if not option.has_flag)
    main = Parser(
        prog="roomapp.py",
        description="Serve the rooms of a campus mini-program over HTTP, until Ctrl-C.",
        epilog="Each option can also be set by the environment variable named with it. "
        "The environment alone sets: "
        + "; ".join(f"{variable(name)}, {OPTIONS[name].help}" for name in others),
        allow_abbrev=False,
    )
    main.set_defaults(run=serve)
    for name, option in OPTIONS.items():
        if option.has_flag:
            add_flag(main, name, default=from_environment(name))
    main.add_argument("--quiet", action="store_true", help="do not log the requests")
    main.add_argument("--version", action="version", version=f"roomapp {version}")
    commands = main.add_subparsers(title="commands", metavar="COMMAND")
    for name, (help, run, *arguments) in ON_THE_FILE.items():
        add_command(commands, name, help, run, arguments)
    for name, (help, run, *arguments) in BESIDE_THE_SERVICE.items():
        add_command(commands, name, help, partial(run_beside_service, run), arguments)
    return main


def add_command(commands, name, help, run, arguments):
    """A command that calls run with the path of the database and its own arguments by name."""
    command = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
    names = [command.add_argument(word, **how).dest for word, how in arguments]
    # No default here: it would win over what stands before the command.
    add_flag(command, "database", default=SUPPRESS)

    def run_with(options):
        run(options.database, **{name: getattr(options, name) for name in names})

    command.set_defaults(run=run_with)


def add_flag(parser, name, default):
    option = OPTIONS[name]
    help = f"{option.help} ({variable(name)}; {from_environment(name)})".replace("%", "%%")
    parser.add_argument(f"--{name}", type=option.read, default=default, help=help)


FILE = ("file", {"type": Path})
OPENID = ("openid", {"type": openid})
ID = number(1, ID_AT_MOST)
ROOM_ID = ("room_id", {"type": ID})
MESSAGE_ID = ("message_id", {"type": ID, "nargs": "?"})
TARGET = ("target", {"type": lambda text: (ID if text.isdecimal() else openid)(text)})
ALL = ("--all", {"dest": "show_all", "action": "store_true", "help": "the settled ones, too"})

# command: (what it does, what runs it, its arguments)
ON_THE_FILE = {
    "backup": ("copy the database to a new file, also while the service runs", backup.backup, FILE),
    "restore": ("put a copy in the place of the database, once stopped", backup.restore, FILE),
    "check": ("show how the database is, and exit with 1 when it is damaged", backup.check),
    "demo": ("fill an empty database with a campus to look at", demo.fill),
}
BESIDE_THE_SERVICE = {
    "reports": ("show what people reported and nobody has settled", moderation.reports, ALL),
    "dismiss": ("settle a report; its text stays", moderation.dismiss, ("number", {"type": ID})),
    "show": ("show a room (digits) or a person, and the newest messages", moderation.show, TARGET),
    "remove": ("delete a room, or the text of a message", moderation.remove, ROOM_ID, MESSAGE_ID),
    "ban": ("let somebody neither log in nor change anything", moderation.ban, OPENID),
    "unban": ("let somebody log in again", moderation.unban, OPENID),
    "bans": ("show who is banned, and since when", moderation.bans),
    "clear-nickname": ("take somebody's nickname away", moderation.clear_nickname, OPENID),
    "forget": ("delete what there is of somebody, as /usr/delete does", moderation.forget, OPENID),
    "export": ("write all that is kept of somebody, as JSON", moderation.export, OPENID),
}
