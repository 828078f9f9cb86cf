"""Write the path of a layer as code that reaches it."""

from __future__ import annotations


def access(path: str, model: str = "model") -> str:
    """Return an expression for the module at ``path``.

    Example:
        >>> access("layer1.0.bn1"), access("")
        ('model.layer1[0].bn1', 'model')
    """
    parts = path.split(".") if path else []
    if any(not (part.isdigit() or part.isidentifier()) for part in parts):
        return f'{model}.get_submodule("{path}")'
    return model + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in parts)
