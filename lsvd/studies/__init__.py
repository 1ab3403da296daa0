"""The studies: what each notebook measures, judges and tabulates."""
