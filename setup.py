"""Metadata of the package: `pip install .` for the model, `.[data,train,evaluate,demo]` for the whole chain."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py


ROOT = Path(__file__).parent
# What lies beside the packages in a clone, and in the folder `bundle` of modeling_mofi in a wheel.
BUNDLED = ("configs", "demo", "model_card.md")
# Lower bounds: what is used came with that version. Upper bounds: the last major version that the tests ran with (the
# exact versions are in constraints.txt); a next one may rename what we build on.
EXTRAS = {
    "data": [
        "datasets>=5.0,<6",
        "duckdb>=2.0,<3",
        "huggingface_hub>=1.0,<3",
        "jinja2>=3.1,<4",
        "marisa-trie>=1.2,<2",
        "numpy<3",
        "orjson>=3.10,<4",
        "pillow<13",
        "pyarrow>=21,<27",
        "pyyaml<7",
        "scipy<2",
        "spacy>=3.8,<4",
        "tqdm<5",
    ],
    "train": ["accelerate>=1.10,<2", "datasets>=5.0,<6", "matplotlib<4", "numpy<3", "pyyaml<7", "tensorboard<3"],
    "evaluate": [
        "accelerate>=1.10,<2",
        "datasets>=5.0,<6",
        "evaluate>=0.4.6,<0.5",
        "matplotlib<4",
        "numpy<3",
        "pyyaml<7",
        "scikit-learn<2",
    ],
    "demo": ["gradio>=6,<7", "pyarrow>=21,<27"],
    "index": ["faiss-cpu>=1.9,<2", "pyarrow>=21,<27"],
    "onnx": ["onnx>=1.17,<2", "onnxruntime>=1.20,<2", "onnxscript>=0.5,<0.8"],
    "quantization": ["optimum-quanto>=0.2.7,<0.3"],
    "ray": ["ray[data]>=2.50,<3"],
    "dev": [
        "pytest",
        "pytest-timeout",
        "pytest-xdist",
        "ray[data]>=2.50,<3",
        "ruff",
        "sentence-transformers>=6,<7",
        "trackio",
        "wandb",
        "websockets>=13",
    ],
}


class BuildWithBundle(build_py):
    """Puts what is bundled into the package, except where an editable install leaves everything in the clone."""

    def run(self) -> None:
        super().run()
        for name in BUNDLED if not self.editable_mode else ():
            source, target = ROOT / name, Path(self.build_lib) / "modeling_mofi" / "bundle" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(source, target)


setup(
    name="mofi",
    version=re.search(r'__version__ = "(.+?)"', (ROOT / "modeling_mofi/__init__.py").read_text(encoding="utf-8"))[1],
    description="MOFI: image representations learned from noisy entity-annotated images, for Hugging Face",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["modeling_mofi*", "data_scripts*", "evaluation*"])
    + ["metrics", "metrics.knn_accuracy", "metrics.recall_at_k", "metrics.retrieval_map"],
    py_modules=["mofi", "evaluate_mofi"],
    package_data={"data_scripts.report": ["*.css", "*.jinja"], "data_scripts.linking": ["*.json"]},
    cmdclass={"build_py": BuildWithBundle},
    entry_points={"console_scripts": ["mofi = mofi:main"]},
    # transformers 5.20 is the first with `sub_configs_defaults`, which MofiConfig relies on.
    install_requires=["torch>=2.5,<3", "transformers>=5.20,<6", "pillow<13", "safetensors>=0.4.3,<1"],
    extras_require=EXTRAS,
)
