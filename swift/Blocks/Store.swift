// What an app has around the blocks of the package's pages that sell something.

import StoreKit
import Tollgate

let product = Product()
@MainActor var plan = ""
