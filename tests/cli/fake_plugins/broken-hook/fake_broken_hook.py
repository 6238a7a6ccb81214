from instsearch_cli import hookimpl


@hookimpl
def instsearch_encoders():
    raise RuntimeError("no encoders today")
