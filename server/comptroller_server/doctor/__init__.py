"""What can be wrong around the product: the machine, the disk, the files, the record's place, the clients. Only looks."""
