"""Result files of a run: schema, readers and writers. No torch."""
