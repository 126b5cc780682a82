//! The generated clients and servers of the example services.

/// `users.v1`.
#[expect(missing_docs, clippy::allow_attributes, reason = "generated")]
pub mod users {
    tonic::include_proto!("users.v1");
}

/// `orders.v1`.
#[expect(missing_docs, clippy::allow_attributes, reason = "generated")]
pub mod orders {
    tonic::include_proto!("orders.v1");
}

/// What [`meshwork::App::reflection`] tells of them.
pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("descriptors");
