"""One router per resource of the Tinker API, and one for TuFT's extension."""
