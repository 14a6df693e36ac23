"""How usage is recorded: the interface that `UsageMeter` and `InMemoryMeter` share."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, cast

from usageledger.domain.quantity import check_name
from usageledger.sdk.producer import events
from usageledger.sdk.producer.events import Event, InvalidEvent, Quantity

_P = ParamSpec("_P")
_R = TypeVar("_R")
_Self = TypeVar("_Self", bound="UsageRecorder")


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Events that have been recorded and that Kafka has not acknowledged yet."""

    count: int = 0
    """Events that wait to be sent or acknowledged."""
    bytes: int = 0
    """Their bytes on disk."""
    age_s: float = 0.0
    """How many seconds the oldest of them has waited."""
    parked: int = 0
    """Events that the broker refuses. They stay on disk and are tried again every few minutes."""
    last_error: str | None = None
    """Why sending last failed; None once it works again."""


class UsageRecorder(ABC):
    """Checks usage and makes events of it.

    ``source`` names the service, never the process.
    """

    def __init__(self, *, source: str, clock: Callable[[], datetime] | None = None) -> None:
        try:
            self.source = check_name("source", source)
        except ValueError as error:
            raise InvalidEvent("source", str(error)) from None
        self._clock = clock or events.utc_now

    def record(
        self,
        *,
        account: str,
        feature: str,
        id: str,
        model: str | None = None,
        quantity: Quantity = 1,
        occurred_at: datetime | None = None,
        hold_id: str | None = None,
        dimensions: Mapping[str, str] | None = None,
    ) -> str:
        """Record one use of a feature and return its id.

        ``id`` is the generation's own id. A use that is recorded again under its id, by any process
        of this service, is charged once. ``quantity`` is in the rate's units (generations, seconds,
        messages, …): a decimal of at most 6 places, never a float. ``occurred_at`` defaults to now.
        ``dimensions`` (project, worker, …) are kept with the event and do not change its price.

        Raises InvalidEvent, which names the wrong field; SpoolFull if there is no room; SpoolError
        if the disk fails. After any of these the use is not recorded.
        """
        event = events.usage_recorded(
            source=self.source,
            account=account,
            id=id,
            feature=feature,
            model=model,
            quantity=quantity,
            occurred_at=occurred_at,
            hold_id=hold_id,
            dimensions=dimensions,
            now=self._clock(),
        )
        self._keep(event, events.encode(event))
        return id

    def check(self, **arguments: Any) -> None:
        """Raise InvalidEvent if `record` would with these arguments. Record nothing."""
        events.encode(events.usage_recorded(source=self.source, now=self._clock(), **arguments))

    def void(self, *, account: str, id: str, reason: str, source: str | None = None) -> str:
        """Cancel the usage recorded under ``id``, and return the void's own id.

        ``source`` is the service that recorded the usage, by default this one. The credits go back
        to the period they were charged in. A repeat is the same void. Raises as `record` does.
        """
        event = events.usage_voided(
            source=self.source,
            account=account,
            usage_source=source or self.source,
            usage_id=id,
            reason=reason,
            now=self._clock(),
        )
        self._keep(event, events.encode(event))
        return str(event["id"])

    def generation(
        self,
        *,
        account: str,
        feature: str,
        id: str,
        model: str | None = None,
        quantity: Quantity = 1,
        hold_id: str | None = None,
        dimensions: Mapping[str, str] | None = None,
        record_on_error: bool = False,
    ) -> Generation:
        """Record the output of a ``with`` block, once the block has ended.

        Set ``quantity`` (or model, dimensions, …) on the `Generation` that it yields. Arguments
        that are already wrong raise InvalidEvent before the work begins. A block that raises
        records nothing, unless ``record_on_error``.
        """
        return Generation(
            self, account, feature, id, model, quantity, hold_id, dimensions, record_on_error
        )

    def records(
        self,
        *,
        account: str | Callable[..., str],
        feature: str | Callable[..., str],
        id: Callable[..., str],
        model: str | Callable[..., str | None] | None = None,
        quantity: Quantity | Callable[..., Quantity] = 1,
        hold_id: Callable[..., str | None] | None = None,
        dimensions: Mapping[str, str] | Callable[..., Mapping[str, str] | None] | None = None,
    ) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
        """Decorate a function, sync or async: each call that returns is recorded.

        An argument that is a callable is called with the parameters it names: those of the
        decorated function, and ``result``::

            @meter.records(
                feature="genai_video",
                model="veo_3",
                account=lambda job: job.account,
                id=lambda result: result.id,
            )
            def render(job): ...

        A call that raises records nothing. Raises TypeError at once if a callable names a parameter
        that the function lacks.
        """
        wanted = {
            "account": account,
            "feature": feature,
            "id": id,
            "model": model,
            "quantity": quantity,
            "hold_id": hold_id,
            "dimensions": dimensions,
        }
        return functools.partial(_wrap_recording, self, wanted)

    @abstractmethod
    def flush(self, timeout_s: float = 30.0) -> bool:
        """Wait until Kafka has acknowledged everything recorded so far.

        Returns False if ``timeout_s`` seconds passed first or an event is parked. Neither loses an
        event.
        """

    @abstractmethod
    def close(self, timeout_s: float = 10.0) -> bool:
        """Flush, then stop. Returns the result of `flush`.

        Events that could not be sent in time stay on disk for the next process.
        """

    @abstractmethod
    def waiting(self) -> Waiting:
        """Return which events are recorded and not acknowledged yet."""

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def _keep(self, event: Event, value: bytes) -> None:
        """Keep an event that has passed all checks, and its bytes."""


class Generation:
    """One generation under way.

    Its attributes are recorded as they are when the block ends. ``cancel()`` prevents that.
    """

    def __init__(
        self,
        recorder: UsageRecorder,
        account: str,
        feature: str,
        id: str,
        model: str | None,
        quantity: Quantity,
        hold_id: str | None,
        dimensions: Mapping[str, str] | None,
        record_on_error: bool,
    ) -> None:
        self.account = account
        self.feature = feature
        self.id = id
        self.model = model
        self.quantity = quantity
        self.hold_id = hold_id
        self.dimensions = dict(dimensions) if isinstance(dimensions, Mapping) else dimensions
        self.record_on_error = record_on_error
        self._recorder = recorder
        self._is_cancelled = False

    def cancel(self) -> None:
        """Record nothing of this generation."""
        self._is_cancelled = True

    def __enter__(self) -> Generation:
        self._recorder.check(**self._arguments())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._is_cancelled and (error is None or self.record_on_error):
            self._recorder.record(**self._arguments())

    def _arguments(self) -> dict[str, Any]:
        names = ("account", "feature", "id", "model", "quantity", "hold_id", "dimensions")
        return {name: getattr(self, name) for name in names}


def _wrap_recording(
    recorder: UsageRecorder, wanted: Mapping[str, object], function: Callable[_P, _R]
) -> Callable[_P, _R]:
    """Wrap ``function`` so that each call that returns is recorded."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"{function.__qualname__} yields, so no one moment is its end: use `with "
            "meter.generation(...)` inside it"
        )
    signature = inspect.signature(function)
    getters = {field: _getter(field, value, signature) for field, value in wanted.items()}

    def record(result: object, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        known = {**call.arguments, "result": result}
        recorder.record(**{field: get(known) for field, get in getters.items()})

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def recorded_async(*args: _P.args, **kwargs: _P.kwargs) -> object:
            result = await function(*args, **kwargs)
            record(result, args, kwargs)
            return result

        return cast("Callable[_P, _R]", recorded_async)

    @functools.wraps(function)
    def recorded(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        result = function(*args, **kwargs)
        record(result, args, kwargs)
        return result

    return recorded


def _getter(
    field: str, value: object, signature: inspect.Signature
) -> Callable[[Mapping[str, object]], Any]:
    """Return a function from a call's arguments and result to the field's value."""
    if not callable(value):
        return lambda known: value
    names = list(inspect.signature(value).parameters)
    unknown = [name for name in names if name != "result" and name not in signature.parameters]
    if unknown:
        raise TypeError(
            f"{field} asks for {', '.join(unknown)}: a callable can ask for the function's "
            "parameters and for `result`"
        )
    return lambda known: value(**{name: known[name] for name in names})
