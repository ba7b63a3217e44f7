"""From a photograph to its place in the label tree: pixels, engines, decisions, answers."""
