"""Capacity: slow down when more requests are in flight than there are slots, as an inference server does.

With `slots` S, `overload` o and n requests in flight, a request takes

    latency x max(1, n / S) ^ (1 + o)

so the throughput n / time rises with n up to S / latency, and beyond falls as (S / n) ^ o: batches stop getting
cheaper once the slots are full, and preempted requests are computed twice. n is counted when the request is admitted,
with the request itself.
Source for the shape: https://docs.vllm.ai/en/latest/configuration/optimization.html (preemption)
"""


def slowdown(in_flight: int, slots: int | None, overload: float) -> float:
    """The factor by which a latency grows; 1.0 without slots."""
    if slots is None or in_flight <= slots:
        return 1.0
    return float((in_flight / slots) ** (1 + overload))
