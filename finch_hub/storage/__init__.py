"""The stores of a home, the publishing of versions into them, and the redaction of secrets."""
