"""The embedded engine as a program of its own: `python -m standby.host`.

One step loop over OpenVINO GenAI's continuous batching (or llama.cpp's own server), with
chat-completions over a unix socket. It runs as a child because a step holds the GIL and native
code can crash; `engines/local.py` starts and watches it.
"""
