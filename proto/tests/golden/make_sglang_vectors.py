#!/usr/bin/env python3
"""Writes sglang_sha256.json: page keys as SGLang itself computes them.

    python3 -m venv /tmp/v && /tmp/v/bin/pip install pybind11 setuptools
    pip download --no-deps sglang==0.5.23 -d /tmp/w
    /tmp/v/bin/python make_sglang_vectors.py /tmp/w/sglang-*.whl

Nothing is reimplemented here. Out of the wheel come hash_binding.cpp, compiled as it is (g++, libcrypto), native_hash.py, run as
it is, and from utils.py and radix_cache.py the functions below and the class RadixKey, cut out because those files import torch.
"""

import ast
import importlib.util
import json
import pathlib
import subprocess
import sys
import sysconfig
import tempfile
import types
import zipfile
from array import array

MEM_CACHE = "sglang/srt/mem_cache"


def compile_binding(sources, work):
    """Compiles their C++ with their flags and imports it."""
    import pybind11

    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    library = work / f"hicache_hash_cpp{suffix}"
    include = ["-I" + pybind11.get_include(), "-I" + sysconfig.get_paths()["include"]]
    flags = ["-O3", "-std=c++17", "-DNDEBUG", "-mavx2", "-w", "-shared", "-fPIC", "-fvisibility=hidden"]
    source = sources / "cpp_utils/hash_binding.cpp"
    command = ["g++", *flags, "-DTORCH_EXTENSION_NAME=hicache_hash_cpp", *include, str(source), "-o", str(library), "-lcrypto"]
    subprocess.run(command, check=True)
    return load("hicache_hash_cpp", library)


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_native_hash(sources, binding):
    """Imports their native_hash.py; only the loader that would call torch is ours."""
    loader = types.ModuleType("sglang.srt.utils.cpp_extension_loader")
    loader.load_extension_with_recovery = lambda **_: binding
    for name in ("sglang", "sglang.srt", "sglang.srt.utils"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules[loader.__name__] = loader
    return load("native_hash", sources / "cpp_utils/native_hash.py")


def cut(path, names, scope):
    """Runs the named top-level definitions of a file in `scope`."""
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if getattr(node, "name", None) in names]
    assert len(tree.body) == len(names), f"{path.name}: expected {names}"
    future = ast.parse("from __future__ import annotations").body
    tree.body = future + tree.body
    exec(compile(tree, str(path), "exec"), scope)


def load_sglang(wheel, work):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(work, [name for name in archive.namelist() if name.startswith(MEM_CACHE)])
    sources = work / MEM_CACHE
    native = load_native_hash(sources, compile_binding(sources, work))
    import hashlib

    scope = {"hashlib": hashlib, "array": array, "get_native_hash": native.get_native_hash}
    cut(sources / "utils.py", ["get_hash_str", "storage_namespace_seed", "get_storage_hash_str"], scope)
    cut(sources / "radix_cache.py", ["RadixKey"], scope)
    return types.SimpleNamespace(**{name: scope[name] for name in ("RadixKey", "get_storage_hash_str", "storage_namespace_seed")})


def tokens(count, salt):
    """Ids of a plausible vocabulary, the same on every run."""
    state, out = salt * 2654435761 + 1, []
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        out.append((state >> 33) % 152064)
    return out


def with_ids(ids, changes):
    return [changes.get(at, token) for at, token in enumerate(ids)]


def case(sgl, name, ids, page_tokens, typecode="q", bigram=False, extra_key=None, cache_salt=None):
    """Keys as the radix cache asks for them: a key cut to whole pages, hashed as a new chain."""
    key = sgl.RadixKey(array(typecode, ids), extra_key, is_bigram=bigram, cache_salt=cache_salt)
    pages = sgl.get_storage_hash_str(key.page_aligned(page_tokens), page_size=page_tokens)
    return {
        "name": name,
        "unit": "bigram" if bigram else "token",
        "extra_key": key.extra_key,
        "cache_salt": key.cache_salt,
        "seed": sgl.storage_namespace_seed(key.extra_key, key.cache_salt),
        "page_tokens": page_tokens,
        "wide_buffer": array(typecode).itemsize == 8,
        "token_ids": ids,
        "pages": pages,
    }


def cases(sgl):
    u32, u64 = 2**32, 2**63 - 1
    for bigram in (False, True):
        unit = "bigram" if bigram else "token"
        for page in (1, 2, 16, 64):
            for count in sorted({0, 1, page - 1, page, page + 1, 2 * page, 2 * page + 1, 3 * page + page // 2}):
                yield case(sgl, f"{unit}, {count} tokens in pages of {page}", tokens(count, page), page, bigram=bigram)
        yield case(sgl, f"{unit}, u32 buffer", tokens(41, 3), 8, typecode="I", bigram=bigram)
        yield case(sgl, f"{unit}, u64 buffer of small ids", tokens(41, 3), 8, typecode="Q", bigram=bigram)
        # A wide id changes its page only; as bigrams, at the first place of a page, the page before it too.
        for at in (0, 7, 8, 9, 15, 16, 23, 24):
            ids = with_ids(tokens(33, 4), {at: u32 + 5})
            yield case(sgl, f"{unit}, wide id at {at} of pages of 8", ids, 8, bigram=bigram)
        edges = with_ids(tokens(33, 5), {2: u32 - 1, 9: u32, 20: u64, 32: u32 + 1})
        yield case(sgl, f"{unit}, ids at the edges of u32 and i64", edges, 8, bigram=bigram)
        yield case(sgl, f"{unit}, every id wide", [u32 + token for token in tokens(33, 6)], 8, bigram=bigram)
        for extra_key, salt in ((None, "s"), ("lora-a", None), ("lora-a", "s"), ("", None), (None, ""), ("", "s"), ("clé 键", "🔑")):
            name = f"{unit}, extra_key {extra_key!r}, cache_salt {salt!r}"
            yield case(sgl, name, tokens(35, 7), 16, bigram=bigram, extra_key=extra_key, cache_salt=salt)
        ids = with_ids(tokens(35, 8), {17: u32 * 3})
        yield case(sgl, f"{unit}, seeded and wide", ids, 16, bigram=bigram, extra_key="lora-a", cache_salt="s")


def main():
    wheel = pathlib.Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as work:
        sgl = load_sglang(wheel, pathlib.Path(work))
        document = {"source": wheel.name, "cases": list(cases(sgl))}
    out = pathlib.Path(__file__).with_name("sglang_sha256.json")
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in document["cases"])
    out.write_text(f'{{"source": {json.dumps(document["source"])}, "cases": [\n{lines}\n]}}\n')
    print(f"{out}: {len(document['cases'])} cases")


if __name__ == "__main__":
    main()
