from instsearch_cli import EncoderSpec, hookimpl


@hookimpl
def instsearch_encoders():
    return [EncoderSpec("blcf", "nowhere:Nothing", "a name that is taken")]
