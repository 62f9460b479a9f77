"""When what is asked: sessions at a time (closed loop), or as they arrive (open loop).

`session` drives one session, `closed_loop` and `open_loop` start them, `client` does the HTTP, `engines` watches the
engines meanwhile; `drive` puts it together.
"""
