//! Keys and signatures: sr25519, SS58, wallet files, canonical JSON, signing blobs.
