"""The service and its page: warm indexes asked over HTTP, as docs/guide/serve.md has it."""
