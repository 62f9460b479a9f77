"""What a deployment tells of itself: counters, latencies, sessions and events, as data and in Prometheus' form.

Pure: no I/O, no clock of its own, no thread. The router feeds it, and so does the HTTP process of every engine through
`sglang_patches`, which is why it imports neither of them. Start at `observer.py`.
"""
