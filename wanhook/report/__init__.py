"""The report of a run: `build` makes one value of it, `terminal` and `as_json` write that value down."""
