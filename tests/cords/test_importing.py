"""CORDS imports in a fresh process, both versions, and leaves no trace but itself."""

from __future__ import annotations

import builtins
import importlib.util
import textwrap

import pytest
from plugin_material import in_fresh_process
from programs import run_program

from lipt_cords.cords.importing import (
    CordsImports,
    cords_version,
    import_cords,
    importing_allowed,
    script_stubs,
)
from lipt_cords.cords.placeholders import Missing

CORDS_MODULE = {"__name__": "cords.utils.some_module"}


def test_released_cords_imports_at_the_first_try_and_leaves_no_trace():
    out = in_fresh_process(
        """
        import builtins, sys
        import numpy as np
        import torch
        before, plain_import = np.geterr(), builtins.__import__
        assert torch.get_num_threads() == 1
        import lipt_cords.cords_plugin as plugin
        assert not any(name.split(".")[0] == "cords" for name in sys.modules)
        plugin.enable()
        from cords.utils.data.dataloader.SL.adaptive import GLISTERDataLoader
        from cords.utils.data.datasets.SL import builder
        import cords.utils.models, cords.utils.data.dataloader.SSL.adaptive
        assert np.geterr() == before
        for name in ("torchtext", "torchtext.data", "transformers", "h5py", "wandb"):
            assert name not in sys.modules, name
        import sklearn.datasets
        assert "load_boston" not in vars(sklearn.datasets)
        try:
            builder.load_boston(return_X_y=True)
        except ImportError as error:
            print(error)
        plugin.disable()
        assert builtins.__import__ is plain_import and np.geterr() == before
        assert torch.get_num_threads() == 1
        print(plugin.cords_version(), GLISTERDataLoader.__name__)
        """
    )
    assert "sklearn.datasets.load_boston was called" in out
    assert "0.0.4 GLISTERDataLoader" in out


def test_the_commands_load_without_what_only_some_of_them_need():
    """Each of these takes seconds, and would be paid by ``lipt-cords --help`` too."""
    heavy = ["cords", "torchvision", "matplotlib", "sklearn", "submodlib", "torch._dynamo"]
    out = in_fresh_process(
        f"""
        import sys
        import lipt_cords.cli.commands
        print([name for name in {heavy} if name in sys.modules])
        """
    )
    assert out.strip() == "[]"


ADAPTIVE_OF_MAIN = """
    import numpy as np
    np.seterr(all="raise")
    from asyncore import read
    from turtle import mode
    from cgi import test
    import h5py, datasets, torchtext.data
    from sentence_transformers import SentenceTransformer, util
    from transformers import ViTFeatureExtractor, BertModel
    from sklearn.datasets import load_boston, load_digits
    from datasets import load_dataset
    from ....helpers import nothing
    class Encoder(BertModel):
        pass
"""


def make_package(root, files):
    for path, text in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        for folder in file.relative_to(root).parents:
            (root / folder / "__init__.py").touch() if str(folder) != "." else None
        file.write_text(textwrap.dedent(text))


def test_a_package_with_the_imports_of_cords_main(tmp_path):
    """Its structure, its imports and its recognition; a failed import leaves nothing behind."""
    adaptive = "cords/utils/data/dataloader/SL/adaptive"
    files = {
        "cords/utils/data/helpers.py": "nothing = None",
        f"{adaptive}/adaptiverandomdataloader.py": ADAPTIVE_OF_MAIN,
        f"{adaptive}/__init__.py": "from .adaptiverandomdataloader import *",
        "cords/broken.py": "import no_such_package_at_all",
    }
    make_package(tmp_path, files)
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import sys
        import numpy as np
        before = np.geterr()
        from lipt_cords.cords_plugin import cords_version, import_cords

        class Absent:  # some of these may be installed here
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in {"h5py", "datasets", "torchtext", "transformers"}:
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        sys.meta_path.insert(0, Absent())
        print(cords_version())
        try:
            import_cords("cords.broken")
        except ImportError as error:
            print(error)
        assert not any(name.split(".")[0] == "cords" for name in sys.modules)
        cords = import_cords()
        assert np.geterr() == before
        adaptive = cords.utils.data.dataloader.SL.adaptive.adaptiverandomdataloader
        assert adaptive.load_digits().data.shape == (1797, 64)
        for call in (
            adaptive.SentenceTransformer, adaptive.h5py.File, adaptive.Encoder,
            adaptive.torchtext.data.Field, adaptive.load_dataset,
        ):
            try:
                call("x")
            except ImportError as error:
                print(error)
        assert not {"h5py", "datasets", "torchtext", "transformers"} & set(sys.modules)
        """)
    )
    done = run_program(script, PYTHONPATH=str(tmp_path))
    out = done.stdout
    assert done.returncode == 0, done.stderr
    assert out.splitlines()[0] == "main"
    assert "no_such_package_at_all is needed to import CORDS" in out
    for package, name in (
        ("sentence-transformers", "sentence_transformers.SentenceTransformer"),
        ("h5py", "h5py.File"),
        ("transformers", "transformers.BertModel"),
        ("torchtext", "torchtext.data.Field"),
        ("datasets", "datasets.load_dataset"),
    ):
        assert f"{name} was called" in out
        assert f"pip install {package}" in out


def test_cords_missing_names_both_commands(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError) as caught:
        import_cords()
    assert "pip install --no-deps cords==0.0.4" in str(caught.value)
    assert "pip install 'lipt-cords[cords]'" in str(caught.value)
    assert cords_version() is None


def test_placeholders_are_for_cords_alone():
    with importing_allowed():
        assert isinstance(builtins.__import__, CordsImports)
        assert isinstance(builtins.__import__("h5py", CORDS_MODULE), Missing)
        with pytest.raises(ModuleNotFoundError):
            builtins.__import__("h5py", {"__name__": "pandas.io"})
        with pytest.raises(ModuleNotFoundError):
            builtins.__import__("no_such_package", CORDS_MODULE)
        with pytest.raises(ModuleNotFoundError):
            import h5py  # noqa: F401
    assert not isinstance(builtins.__import__, CordsImports)


def test_what_is_there_is_not_replaced():
    import json

    import sklearn.datasets

    with importing_allowed():
        assert builtins.__import__("json", CORDS_MODULE) is json
        found = builtins.__import__("sklearn.datasets", CORDS_MODULE, None, ("load_digits",))
        assert found is sklearn.datasets
        view = builtins.__import__(
            "sklearn.datasets", CORDS_MODULE, None, ("load_digits", "load_boston")
        )
    assert view.load_digits is sklearn.datasets.load_digits
    assert isinstance(view.load_boston, Missing)


def test_a_package_that_fails_to_load_counts_as_absent(tmp_path, monkeypatch):
    (tmp_path / "torchtext.py").write_text("raise OSError('undefined symbol: _ZN2at')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with importing_allowed():
        stand_in = builtins.__import__("torchtext", CORDS_MODULE)
    with pytest.raises(ImportError, match=r"torchtext.vocab was called.*undefined symbol"):
        stand_in.vocab()


def test_script_stubs_serve_user_code_not_installed_packages(tmp_path):
    user = {"__name__": "train_sl", "__file__": str(tmp_path / "train_sl.py")}
    installed = {"__name__": "lightning", "__file__": "/x/site-packages/lightning/__init__.py"}
    standard = {"__name__": "logging", "__file__": importlib.util.find_spec("logging").origin}
    with script_stubs():
        for importer in (user, {"__name__": "__main__"}):
            assert isinstance(builtins.__import__("wandb", importer), Missing)
        tune = builtins.__import__("ray", user, None, ("tune",)).tune
        with pytest.raises(ImportError, match=r"ray.tune.report was called.*pip install 'ray"):
            tune.report(mean_accuracy=1.0)
        for importer in (installed, standard):
            with pytest.raises(ModuleNotFoundError):
                builtins.__import__("wandb", importer)
    with importing_allowed(), pytest.raises(ModuleNotFoundError):
        builtins.__import__("wandb", user)


def test_nested_use_gives_pythons_import_back_once():
    before = builtins.__import__
    with importing_allowed():
        with importing_allowed():
            pass
        assert isinstance(builtins.__import__, CordsImports)
    assert builtins.__import__ is before


def test_a_wrapper_around_the_import_is_left_in_place(monkeypatch):
    monkeypatch.setattr(builtins, "__import__", builtins.__import__)
    with importing_allowed():
        ours = builtins.__import__
        builtins.__import__ = lambda *args, **kwargs: ours(*args, **kwargs)
        wrapper = builtins.__import__
    assert builtins.__import__ is wrapper
    with pytest.raises(ModuleNotFoundError):
        builtins.__import__("h5py", CORDS_MODULE)
    with importing_allowed():
        assert isinstance(builtins.__import__("h5py", CORDS_MODULE), Missing)
    builtins.__import__ = ours
    with importing_allowed():
        pass
