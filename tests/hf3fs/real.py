"""SGLang's own metadata server as a server under test, with what `group.Foreword` has as far as it can."""

import os
import shutil

from support import new_dir, setting, tail


class Sglang:
    """The server from SGLang's wheel in a process of its own, with its persistence on."""

    name = "SGLang's server"

    def __init__(self):
        self._dir = new_dir("sglang-")
        self._log = os.path.join(self._dir, "log")
        self._start()

    def _start(self) -> None:
        saved = os.path.join(self._dir, "saved.json")
        self._pid, self._port = setting("nursery").server(self._log, saved)

    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def urls_of_models(self, count: int) -> list:
        """Its URLs know no path: all models that share a server share the URL."""
        return [self.url()] * count

    def kill_and_restart(self) -> None:
        """SIGKILL, and the same command again."""
        setting("nursery").kill(self._pid)
        self._start()

    def close(self) -> None:
        setting("nursery").kill(self._pid)
        shutil.rmtree(self._dir, ignore_errors=True)

    def __repr__(self):
        return f"SGLang's server, log: {tail(self._log)}"
