"""x"""

CASES: list = []
