"""Redis as a worker reads it: what is no message at all is dropped, and the worker lives on."""

import logging
from queue import Empty
from typing import Any

from kombu.transport.redis import Channel, Transport

LOG = logging.getLogger(__name__)


class TolerantChannel(Channel):
    """Kombu drops messages whose body it cannot read; what is no envelope around a body ends the worker."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]  # as kombu has it
        except (ValueError, LookupError, TypeError) as error:
            LOG.warning("dropped what is no message: %r", error)
            raise Empty from None


def tolerate_nonsense() -> None:
    """For every connection that this process opens from now on."""
    Transport.Channel = TolerantChannel
