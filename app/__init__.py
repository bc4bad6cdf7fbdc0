"""Dragonfly: vendor exports of court judgments in, PostgreSQL rows out, every refused row explained."""
