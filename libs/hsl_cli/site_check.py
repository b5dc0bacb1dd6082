"""How `hsl node check` is shown, and what its exit code says."""

from hsl_cli.errors import OK, REFUSED, UNREACHABLE, BadInputError
from hsl_cli.output import say
from hsl_model.protocol.messages import HubPlace
from node_agent.check.finding import OF_THE_WAY, CheckReport, Finding, Outcome


def show_finding(finding: Finding) -> None:
    """One line, whatever its length: it is to be copied into a mail."""
    what = f"{finding.part} {finding.concern}"
    line = f"{finding.outcome:<12} {what:<24} {finding.sentence}"
    if finding.ask is not None and finding.outcome in (Outcome.FAILED, Outcome.WARNING):
        line += f" Ask the firewall team: {finding.ask.line()}."
    say(line)


def show_end(report: CheckReport) -> None:
    say("")
    say("What the network has to let through; nothing comes in:")
    for ask in report.needed:
        say(f"  {ask.line()}")
    say(report.estimate.sentence)


def exit_code(report: CheckReport) -> int:
    if any(one.concern in OF_THE_WAY for one in report.failed):
        return UNREACHABLE
    return REFUSED if report.failed else OK


def hub_place(text: str) -> HubPlace:
    """`HOST` or `HOST:PORT` as written on a command line; 22 where no port is given."""
    host, colon, port = text.rpartition(":")
    host, port = (host.strip("[]"), port) if colon else (text, "22")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise BadInputError(reason=f"--hub {text}: expected HOST:PORT, e.g. hub.example:2022.")
    return HubPlace(host=host, port=int(port))
