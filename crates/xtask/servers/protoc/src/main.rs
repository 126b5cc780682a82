//! Prints where cargo has unpacked protoc and its standard `.proto` files: two lines, binary and include directory.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("{}", protoc_bin_vendored::protoc_bin_path()?.display());
    println!("{}", protoc_bin_vendored::include_path()?.display());
    Ok(())
}
