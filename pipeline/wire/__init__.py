"""Conversion of records to and from Avro bytes, columns, and the parameter objects of `models`."""
