"""The torch backend: every norm in torch's own operators, on any device."""
