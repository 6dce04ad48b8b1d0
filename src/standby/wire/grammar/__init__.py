"""JSON Schema as grammars of the answers that are valid (decisions/2026-11-22-own-grammar). Pure.

`compile.language_of` reads a schema (`merging`, `patterns`, `formats`, `numbers`) and returns a `language.Language`.
The engine host holds each answer against it, character by character; `counting.exact_grammar` writes it for engines
that have to enforce it by themselves.
"""
