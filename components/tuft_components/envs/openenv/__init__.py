"""The OpenEnv protocol: play environments of its servers, and serve ours to its clients.

A session is a WebSocket at `/ws`. Messages are JSON: `{"type": "reset" | "step" | "state" |
"close", "data": {…}}`, and answers `{"type": "observation" | "state" | "error", "data": {…}}`.
"""
