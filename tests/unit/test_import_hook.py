"""Actions that run right after a module's own code."""

import importlib
import importlib.machinery
import importlib.util
import itertools
import sys
import zipfile

import pytest

from wanhook.integrations import import_hook

_numbers = itertools.count()


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Name of a module that can be imported and is not."""
    name = f"wanhook_test_module_{next(_numbers)}"
    (tmp_path / f"{name}.py").write_text("value = 1\ncopied = value\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    finders = list(sys.meta_path)
    yield name
    sys.modules.pop(name, None)
    import_hook.forget(name)
    assert sys.meta_path == finders


def test_action_runs_after_the_modules_own_code_and_before_anybody_elses(module):
    seen = []
    import_hook.on_import(module, lambda: seen.append(sys.modules[module].copied))
    assert seen == []
    importlib.import_module(module)
    assert seen == [1]
    importlib.import_module(module)
    importlib.reload(sys.modules[module])
    assert seen == [1]


def test_action_runs_at_once_for_an_imported_module(module):
    importlib.import_module(module)
    seen = []
    import_hook.on_import(module, lambda: seen.append(1))
    assert seen == [1]


def test_several_actions_for_one_module(module):
    seen = []
    import_hook.on_import(module, lambda: seen.append("first"))
    import_hook.on_import(module, lambda: seen.append("second"))
    importlib.import_module(module)
    assert sorted(seen) == ["first", "second"]


def test_forgotten_action_does_not_run(module):
    import_hook.on_import(module, lambda: pytest.fail("was forgotten"))
    import_hook.forget(module)
    importlib.import_module(module)


def test_module_that_fails_to_import_fails_as_without_us(module, tmp_path):
    (tmp_path / f"{module}.py").write_text("raise ValueError('its own')")
    import_hook.on_import(module, lambda: pytest.fail("it was never imported"))
    with pytest.raises(ValueError, match="its own"):
        importlib.import_module(module)


def test_module_that_is_not_there_is_missing_as_without_us():
    import_hook.on_import("wanhook_no_such_module", lambda: pytest.fail("it was never imported"))
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("wanhook_no_such_module")
    import_hook.forget("wanhook_no_such_module")


def test_other_modules_do_not_notice(module):
    import_hook.on_import("wanhook_some_other_module", lambda: pytest.fail("it was never imported"))
    assert importlib.import_module(module).value == 1
    import_hook.forget("wanhook_some_other_module")


def test_asking_whether_a_module_is_there_is_no_import(module):
    seen = []
    import_hook.on_import(module, lambda: seen.append(1))
    assert importlib.util.find_spec(module) is not None
    assert seen == []
    importlib.import_module(module)
    assert seen == [1]


def test_module_that_is_half_imported_is_waited_for(module, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wanhook_test_hook", import_hook)
    (tmp_path / f"{module}.py").write_text(
        "import sys, wanhook_test_hook as hook\n"
        "hook.seen = []\n"
        "hook.on_import(__name__, lambda: hook.seen.append(sys.modules[__name__].late))\n"
        "import wave\n"
        "assert hook.seen == []\n"
        "late = 3\n"
    )
    sys.modules.pop("wave", None)
    importlib.import_module(module)
    importlib.util.find_spec("wanhook_no_such_module")
    assert import_hook.seen == [3]
    del import_hook.seen


def test_loader_is_left_as_it_was(module):
    finders = list(sys.meta_path)  # others may be watched for
    import_hook.on_import(module, lambda: None)
    loaded = importlib.import_module(module)
    assert "exec_module" not in vars(loaded.__spec__.loader)
    assert sys.meta_path == finders


def test_one_of_two_actions_is_forgotten(module):
    seen = []
    import_hook.on_import(module, first := lambda: seen.append("first"))
    import_hook.on_import(module, lambda: seen.append("second"))
    import_hook.forget(module, first)
    importlib.import_module(module)
    assert seen == ["second"]


def test_loader_that_serves_several_modules(tmp_path, monkeypatch):
    """As that of a zip file does: each action runs after its own module, whatever else was asked for or imported."""
    names = [f"wanhook_test_zipped_{next(_numbers)}" for _ in range(3)]
    with zipfile.ZipFile(tmp_path / "modules.zip", "w") as file:
        for name in names:
            file.writestr(f"{name}.py", "value = 1\n")
    monkeypatch.syspath_prepend(tmp_path / "modules.zip")
    watched, other, also_watched = names
    seen = []
    for name in (watched, also_watched):
        import_hook.on_import(name, lambda name=name: seen.append((name, sys.modules[name].value)))
        assert importlib.util.find_spec(name) is not None
    importlib.import_module(other)
    assert seen == []
    loader = importlib.import_module(also_watched).__spec__.loader
    assert seen == [(also_watched, 1)]
    importlib.import_module(watched)
    assert seen == [(also_watched, 1), (watched, 1)]
    assert "exec_module" not in vars(loader)
    for name in names:
        del sys.modules[name]


class _Rigid:
    """Finder and loader that takes no attributes."""

    __slots__ = ("name",)

    def __init__(self, name):
        self.name = name

    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name == self.name else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        module.value = 1


def test_loader_that_takes_no_attributes_still_loads(module):
    name = f"{module}_rigid"
    rigid, seen = _Rigid(name), []
    sys.meta_path.append(rigid)
    try:
        import_hook.on_import(name, lambda: seen.append(sys.modules[name].value))
        assert importlib.import_module(name).value == 1
        importlib.import_module(module)
        assert seen == [1]
    finally:
        sys.meta_path.remove(rigid)
        sys.modules.pop(name, None)
