"""Scans and procedural objects, rendered into scene folders."""
