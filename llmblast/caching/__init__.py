"""Caching: which requests are equal, and the answers to earlier ones.

1. `RequestKeys.of` returns the keys of a request: equal requests have equal keys, in this run and in any other.
2. `answer_store.AnswerStore` keeps replies under these keys, in a file that several runs may use at once.
3. `StoreThread` asks the store for many keys at a time, in a thread of its own.

`job/single_sends.py` asks it for each batch of requests between parser and queue, so that a hit reaches no limit.
"""

from llmblast.caching.request_keys import Destination, RequestKeys
from llmblast.caching.store_thread import StoreError, StoreThread

__all__ = ["Destination", "RequestKeys", "StoreError", "StoreThread"]
