"""The line between a site and the coordinator: loses requests and replies, delivers twice, late, in another order."""

from dataclasses import dataclass

import httpx

from tests.simulator.coordinator import Coordinator
from tests.simulator.faults import Faults
from tests.simulator.scheduler import Scheduler

PATIENCE_S = 30.0  # virtual: after that the agent's HTTP client gives up


@dataclass(frozen=True)
class Parcel:
    path: str
    headers: dict[str, str]
    body: bytes


class Line(httpx.BaseTransport):
    """One site's. `down_until_s`: nothing passes before."""

    def __init__(self, site: str, coordinator: Coordinator, faults: Faults, scheduler: Scheduler) -> None:
        self.down_until_s = 0.0
        self._site = site
        self._coordinator = coordinator
        self._faults = faults
        self._scheduler = scheduler
        self._num_late = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        parcel = Parcel(request.url.path, dict(request.headers), request.content)
        faults, scheduler = self._faults, self._scheduler
        if faults.strikes("line down"):
            self.down_until_s = scheduler.now_s + faults.draw("line down").uniform(10, 400)
        if self.is_down or faults.strikes("request lost"):
            self._lost(parcel, "request lost")
        if faults.strikes("request late"):
            self._deliver_later(parcel, faults.draw("request late").uniform(1, 90))
            self._lost(parcel, "request late")
        if faults.strikes("request twice"):
            self._deliver_later(parcel, faults.draw("request twice").uniform(0, 60))
        scheduler.crossing()
        reply = self._coordinator.serve(parcel.path, _lowered(parcel.headers), parcel.body)
        if reply.status_code >= 400:
            scheduler.note(f"{self._site}: {_short(parcel.path)} {reply.status_code} {reply.json()['code']}")
        scheduler.crossing()
        if self.is_down or faults.strikes("reply lost"):
            self._lost(parcel, "reply lost")
        return reply

    @property
    def is_down(self) -> bool:
        return self._scheduler.now_s < self.down_until_s

    def _lost(self, parcel: Parcel, why: str) -> None:
        self._scheduler.note(f"{self._site}: {_short(parcel.path)} {why}")
        self._scheduler.sleep(PATIENCE_S)
        raise httpx.ReadTimeout(why)

    def _deliver_later(self, parcel: Parcel, delay_s: float) -> None:
        """On its own way; nobody waits for the answer. Not even the death of its sender stops it."""

        def deliver() -> None:
            self._scheduler.sleep(delay_s)
            self._scheduler.note(f"{self._site}: {_short(parcel.path)} comes late")
            try:
                self._coordinator.serve(parcel.path, _lowered(parcel.headers), parcel.body)
            except httpx.TransportError:
                self._scheduler.note(f"{self._site}: {_short(parcel.path)} meets nobody")

        self._num_late += 1
        self._scheduler.start("line", f"{self._site} parcel {self._num_late}", deliver)


class _Headers(dict[str, str]):
    """As HTTP has them: names in any case."""

    def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override]
        return super().get(name.lower(), default)

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())


def _lowered(headers: dict[str, str]) -> _Headers:
    return _Headers({name.lower(): value for name, value in headers.items()})


def _short(path: str) -> str:
    return "/".join(path.split("/")[-2:])
