// In place of examples/ios/Paywall.swift, which wants StoreKit.

import SwiftUI
import Tollgate

struct Paywall: View {
    let tollgate: TollgateClient
    let refusal: TollgateError

    var body: some View { Text(refusal.message) }
}
