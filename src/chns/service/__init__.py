"""The HTTP and WebSocket service of ``chns serve``, and its page: one model, its voiceprints, no torch."""
