"""Exact search: faiss and torch, single and half precision, agree with a sort of all inner products."""

import pytest
import torch

from modeling_mofi.search.vector_search import VectorSearch, chunked_top_k


def unit_rows(num_rows, dim, *, seed):
    rows = torch.randn(num_rows, dim, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=-1)


def expected(queries, vectors, k):
    return (queries @ vectors.T).sort(dim=1, descending=True).values[:, :k]


@pytest.mark.parametrize("num_queries", [1, 7, 40])
@pytest.mark.parametrize("use_faiss", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 1e-3)])
def test_search_finds_the_largest_inner_products(num_queries, use_faiss, dtype, tolerance):
    if use_faiss:
        pytest.importorskip("faiss")
    vectors, queries = unit_rows(500, 32, seed=0), unit_rows(num_queries, 32, seed=1)
    values, rows = VectorSearch(vectors.to(dtype), use_faiss=use_faiss).top_k(queries, k=9)
    torch.testing.assert_close(values, expected(queries, vectors, 9), rtol=0, atol=tolerance)
    torch.testing.assert_close((queries[:, None] * vectors[rows]).sum(-1), values, rtol=0, atol=tolerance)


def test_half_precision_finds_nearly_the_same_rows():
    vectors, queries = unit_rows(2000, 64, seed=0), unit_rows(50, 64, seed=1)
    whole, half = (VectorSearch(vectors.to(kind)).top_k(queries, k=10)[1] for kind in (torch.float32, torch.float16))
    recall = sum(len(set(a) & set(b)) for a, b in zip(whole.tolist(), half.tolist(), strict=True)) / 500
    assert recall >= 0.99


def test_half_vectors_stay_readable_in_faiss():
    vectors = unit_rows(20, 8, seed=0).half()
    search = VectorSearch(vectors)
    torch.testing.assert_close(torch.cat([search.vectors, vectors]), torch.cat([vectors, vectors]))


@pytest.mark.parametrize("chunk_rows", [1, 7, 100])
def test_chunks_change_nothing(chunk_rows):
    vectors, queries = unit_rows(40, 8, seed=0), unit_rows(5, 8, seed=1)
    values, rows = chunked_top_k(queries, vectors, k=6, chunk_rows=chunk_rows)
    torch.testing.assert_close(values, expected(queries, vectors, 6))
    assert rows.tolist() == (queries @ vectors.T).argsort(dim=1, descending=True)[:, :6].tolist()


def test_more_results_than_vectors_are_not_made_up():
    search = VectorSearch(unit_rows(3, 8, seed=0))
    assert search.top_k(unit_rows(2, 8, seed=1), k=10)[1].sort().values.tolist() == [[0, 1, 2]] * 2
    assert search.top_k(torch.empty(0, 8), k=2)[0].shape == (0, 2)
    assert VectorSearch(torch.empty(0, 8)).top_k(torch.ones(1, 8), k=2)[0].shape == (1, 0)
