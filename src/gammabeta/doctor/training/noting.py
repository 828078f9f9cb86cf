"""What a clinic wraps its work in: a fault must not end a training, and time is charged."""

from __future__ import annotations

from gammabeta.doctor.training.throttle import Throttle


class Noting:
    """Turns an exception into a note."""

    def __init__(self, notes: list[str]) -> None:
        self._notes = notes

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if error is None or not isinstance(error, Exception):
            return False
        note = f"the clinic failed: {type(error).__name__}: {error}"
        if note not in self._notes:
            self._notes.append(note)
        return True


class Measured(Noting):
    """Turns an exception into a note, and charges the time to the throttle."""

    def __init__(self, notes: list[str], throttle: Throttle) -> None:
        self._notes = notes
        self._throttle = throttle

    def __enter__(self) -> None:
        self._began = self._throttle.work()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        self._throttle.spent += self._throttle.work() - self._began
        return error is not None and super().__exit__(kind, error, trace)
