"""Metadata of the package: `pip install .` for the model, `.[data,train,evaluate,demo]` for the whole chain."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py


ROOT = Path(__file__).parent
# What lies beside the packages in a clone, and in the folder `bundle` of modeling_mofi in a wheel.
BUNDLED = ("configs", "demo", "model_card.md")
# Lower bounds: those of constraints-lowest.txt, for `make test-lowest`. Upper bounds: the last major version that the
# tests ran with (the exact versions are in constraints.txt); the next one may rename what we build on.
EXTRAS = {
    "data": [
        "datasets>=5.0,<6",
        "duckdb>=2.0,<3",
        "huggingface_hub>=1.31,<3",
        "jinja2>=3.1,<4",
        "marisa-trie>=1.2,<2",
        "numpy>=2.0,<3",
        "orjson>=3.10,<4",
        "pillow>=12.3,<13",
        "pyarrow>=21,<27",
        "pyyaml>=6.0.1,<7",
        "scipy>=1.13,<2",
        "spacy>=3.8.2,<4",
        "tqdm>=4.66.3,<5",
    ],
    "train": [
        "accelerate>=1.10,<2",
        "datasets>=5.0,<6",
        "matplotlib>=3.9,<4",
        "numpy>=2.0,<3",
        "pyyaml>=6.0.1,<7",
        "tensorboard>=2.21,<3",
    ],
    "evaluate": [
        "accelerate>=1.10,<2",
        "datasets>=5.0,<6",
        "evaluate>=0.4.6,<0.5",
        "matplotlib>=3.9,<4",
        "numpy>=2.0,<3",
        "pyyaml>=6.0.1,<7",
        "scikit-learn>=1.5,<2",
    ],
    "demo": ["gradio>=6.0.1,<7", "pyarrow>=21,<27"],
    "index": ["faiss-cpu>=1.15,<2", "pyarrow>=21,<27"],
    "lora": ["peft>=0.21,<1"],
    "onnx": ["onnx>=1.17,<2", "onnxruntime>=1.20,<2", "onnxscript>=0.5,<0.8"],
    "quantization": ["optimum-quanto>=0.2.7,<0.3"],
    "ray": ["ray[data]>=2.50,<3"],
    "docs": ["ipykernel>=6.29,<8", "mkdocs-material>=9.5,<10", "mkdocstrings[python]>=1.0,<2", "nbclient>=0.10,<1"],
    "dev": [
        "build",
        "pre-commit",
        "pyright",
        "pytest",
        "pytest-timeout",
        "pytest-xdist",
        "ray[data]>=2.50,<3",
        "ruff",
        "sentence-transformers>=6.0,<7",
        "trackio",
        "twine",
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
    author="The open MOFI contributors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords="image retrieval, entity recognition, entity linking, contrastive learning, CLIP, Wikidata, transformers",
    project_urls={"Paper": "https://huggingface.co/papers/2306.07952"},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX",
        *(f"Programming Language :: Python :: {version}" for version in ("3", "3.11", "3.12", "3.13")),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["modeling_mofi*", "data_scripts*", "evaluation*"])
    + ["metrics", "metrics.knn_accuracy", "metrics.recall_at_k", "metrics.retrieval_map"],
    py_modules=["mofi", "evaluate_mofi"],
    package_data={
        "data_scripts.report": ["*.css", "*.jinja"],
        "data_scripts.knowledge_base": ["*.jinja"],
        "data_scripts.linking": ["*.json"],
        "modeling_mofi.search": ["*.jinja"],
        **{package: ["py.typed"] for package in ("modeling_mofi", "data_scripts", "evaluation")},
    },
    cmdclass={"build_py": BuildWithBundle},
    entry_points={"console_scripts": ["mofi = mofi:main"]},
    # transformers 5.20 is the first with `sub_configs_defaults`, which MofiConfig relies on; it asks for torch 2.6.
    # Pillow 12.3 is the first without CVE-2026-59203 (a crafted EPS makes it hang) and nine others of 2026.
    install_requires=["torch>=2.6,<3", "transformers>=5.20,<6", "pillow>=12.3,<13", "safetensors>=0.8,<1"],
    extras_require=EXTRAS,
)
