//! Internet checksums: full, incremental (RFC 1624), and partial ones left by a local stack.
