"""Scores of answers: of one question (VQA, exact match, multiple choice), of a set of captions, of a retrieval."""
