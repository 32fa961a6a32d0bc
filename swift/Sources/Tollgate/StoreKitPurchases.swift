#if canImport(StoreKit) && !os(visionOS)
    import Foundation
    import StoreKit

    // For Apple's systems only: compiled by us against stubs, and not run.

    @available(iOS 16, macOS 13, tvOS 16, watchOS 9, *)
    extension TollgateClient {
        /// Buys a product for this user, and tells the server of it.
        ///
        /// - Returns: the user with the new plan; nil where the user cancelled, or somebody has to approve first
        /// - Throws: StoreKit's errors, and `TollgateError`; what the server did not hear of is told by `redeemPurchases()` later
        public func purchase(_ product: Product) async throws -> Me? {
            let result = try await product.purchase(options: [.appAccountToken(me().user.id)])
            guard case .success(let transaction) = result else { return nil }
            return try await redeem(transaction)
        }

        /// Tells the server of everything that this Apple account owns: for "Restore purchases", and after a new sign-in.
        public func restorePurchases() async throws {
            try await AppStore.sync()
            for await transaction in Transaction.currentEntitlements { _ = try await redeem(transaction) }
        }

        /// Tells the server of what was bought elsewhere, renewed or approved later. Run it in a task as long as the app lives.
        public func redeemPurchases() async {
            for await transaction in Transaction.unfinished { _ = try? await redeem(transaction) }
            for await transaction in Transaction.updates { _ = try? await redeem(transaction) }
        }

        /// The server verifies the signature itself. What it does not know stays unfinished, and StoreKit says it again.
        private func redeem(_ transaction: VerificationResult<Transaction>) async throws -> Me {
            let me = try await redeem(transaction.jwsRepresentation)
            await transaction.unsafePayloadValue.finish()
            return me
        }
    }
#endif
