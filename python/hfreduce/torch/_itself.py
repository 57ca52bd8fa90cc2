"""Messages from a rank to itself, which torch allows where the sender does not block: a copy, once both ends are there.

Knows no communicator. Invariants: messages meet in the order in which they were posted, and both ends of one have the same outcome; the copy
of CUDA tensors is behind what both streams had been given.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any, Callable, Deque, List, Optional

import torch

from . import _cuda


class Message:
    """One end of a message, which answers as the library's Pending does."""

    def __init__(self, tensor: torch.Tensor, tag: int) -> None:
        self.tensor, self.tag = tensor, tag
        self.device = _cuda.device_of(tensor)
        # What was given to the poster's stream before, and the copy.
        self.before = self.device and _cuda.moment(self.device)
        self.after: Any = None
        self._ended = threading.Event()
        self._error: Optional[Exception] = None
        self._then: List[Callable[[], None]] = []

    def wait(self, timeout: Optional[float] = None) -> bool:
        if not self._ended.wait(timeout):
            return False
        if self._error is not None:
            raise self._error
        if self.after is not None:
            self.after.synchronize()
        return True

    @property
    def on_stream(self) -> bool:
        return self.device is not None

    def block(self, _stream: int) -> None:
        """Has the current stream wait for the copy, and the host for the other end to be posted."""
        self._ended.wait()
        if self._error is not None:
            raise self._error
        if self.device is not None and self.after is not None:
            _cuda.follow(self.device, self.after)

    def done(self) -> bool:
        return self._ended.is_set()

    def error(self) -> Optional[Exception]:
        return self._error

    def then(self, callback: Callable[[], None]) -> None:
        self._then.append(callback)
        if self.done():
            self._call_back()

    def end(self, error: Optional[Exception]) -> None:
        self._error = error
        self._ended.set()
        self._call_back()

    def _call_back(self) -> None:
        while self._then:
            self._then.pop()()


class Itself:
    """Ends whose other end has not been posted yet: sends or receives, never both."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._lock = threading.Lock()
        self._sends: Deque[Message] = deque()
        self._receives: Deque[Message] = deque()

    def send(self, tensor: torch.Tensor, tag: int) -> Message:
        return self._post(Message(tensor, tag), self._sends, self._receives, True)

    def receive(self, tensor: torch.Tensor, tag: int) -> Message:
        return self._post(Message(tensor, tag), self._receives, self._sends, False)

    def close(self) -> None:
        """Nobody will post the other end any more."""
        with self._lock:
            waiting = [*self._sends, *self._receives]
            self._sends.clear()
            self._receives.clear()
        for message in waiting:
            message.end(RuntimeError(f"rank {self._rank}: a message to itself had no other end when its group was closed"))

    def _post(self, message: Message, mine: Deque[Message], others: Deque[Message], sends: bool) -> Message:
        with self._lock:
            if not others:
                mine.append(message)
                return message
            other = others.popleft()
        sent, received = (message, other) if sends else (other, message)
        error = self._deliver(sent, received)
        other.end(error)
        message.end(error)
        return message

    def _deliver(self, sent: Message, received: Message) -> Optional[Exception]:
        have, want = sent.tensor, received.tensor
        if (sent.tag, have.dtype, have.numel()) != (received.tag, want.dtype, want.numel()):
            return ValueError(
                f"rank {self._rank}: a send to itself of {have.numel()} {have.dtype} with tag {sent.tag} met a recv of "
                f"{want.numel()} {want.dtype} with tag {received.tag}; make both ends alike"
            )
        device = received.device or sent.device
        if device is None:
            with torch.no_grad():
                want.copy_(have.view_as(want))
            return None
        for message in (sent, received):
            if message.before is not None:
                _cuda.follow(device, message.before)
        with torch.no_grad():
            want.copy_(have.view_as(want))
        sent.after = received.after = _cuda.moment(device)
        return None
