"""Policies by which the mock provider enforces a rate: one class each, plain state with an injected clock.

A rate is so many units (requests or tokens) in a window of a second, a minute or a day. Providers differ in what they
mean by that, and a client that suits one policy can run into another, so all these are here:

    fixed         aligned windows that follow one another, the first begins with the first request
    sliding       never more than the rate's units in any stretch of one window, by a log of what was admitted
    token-bucket  holds `burst` units, refilled evenly; a cost must be in the bucket
    leaky         strictly even, as nginx's limit_req; `burst` units may come early
    quantised     the quota is handed out in equal slices of one second that follow the clock's whole seconds

What is taken without having been asked for, such as the tokens of a reply, may put any of them into debt.
"""

from llmblast.mocking.buckets import LeakyBucket, TokenBucket
from llmblast.mocking.rates import Policy
from llmblast.mocking.windows import FixedWindow, Quantised, SlidingWindow

POLICIES: dict[str, type[Policy]] = {
    "fixed": FixedWindow,
    "sliding": SlidingWindow,
    "token-bucket": TokenBucket,
    "leaky": LeakyBucket,
    "quantised": Quantised,
}
"""The policies by the name that the setting `policy` has for them."""
